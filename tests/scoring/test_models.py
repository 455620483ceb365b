"""Loading: output heads of several architectures, and models that cannot be used."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate import disk_offload
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from opd_diag.errors import ModelError
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.columns.rows import Rows, score_rows
from opd_diag.scoring.models.fingerprints import digest_file, fingerprint
from opd_diag.scoring.models.forward import verify_head
from opd_diag.scoring.models.loading import Loading, find_head, load_model

SHAPE = {
    "vocab_size": 352,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PHI = {key: value for key, value in SHAPE.items() if key != "head_dim"}
KINDS = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "gemma2-soft-cap": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, final_logit_softcapping=3.0, query_pre_attn_scalar=8)
    ),
    "cohere-scale": lambda: CohereForCausalLM(CohereConfig(**PHI, logit_scale=0.25)),
    "granite-scaling": lambda: GraniteForCausalLM(GraniteConfig(**PHI, logits_scaling=4.0)),
    "phi-bias": lambda: PhiForCausalLM(PhiConfig(**PHI)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=352, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    ),
}
IDS = torch.arange(3, 40) * 7 % 300


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for kind, build in KINDS.items():
        torch.manual_seed(0)
        model = build()
        if kind == "phi-bias":
            torch.nn.init.normal_(model.lm_head.bias)
        made[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(made[kind])
    return made


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_logits_are_the_models_own(folders, kind):
    model = load_model(str(folders[kind]))
    verify_head(model, IDS)
    own = model.model(IDS[None]).logits[0]
    torch.testing.assert_close(
        model.head.logits(model.hidden_states(IDS[None])[0]), own, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("gemma2-soft-cap", {"soft_cap": None}),
        ("cohere-scale", {"scale": 1.0}),
        ("granite-scaling", {"scale": 4.0}),
        ("phi-bias", {"bias": None}),
    ],
)
def test_a_head_that_lacks_a_feature_is_refused(folders, kind, change):
    model = load_model(str(folders[kind]))
    wrong = dataclasses.replace(model, head=dataclasses.replace(model.head, **change))
    with pytest.raises(ModelError, match="logits differ from the model's own by up to"):
        verify_head(wrong, IDS)


def test_a_model_saved_in_float64_is_refused_by_name(folders, tmp_path):
    """`auto` takes the dtype that a model was saved in, whichever that is."""
    wide = load_model(str(folders["llama-tied"])).model.double()
    wide.save_pretrained(tmp_path / "wide")
    model = load_model(str(tmp_path / "wide"), Loading(dtype="auto"))
    with pytest.raises(ModelError, match=r"wide: logits in float64; expected float32, bfloat16 or"):
        verify_head(model, IDS)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_autograd_through_the_models_own_forward(folders, kind):
    other = "gpt2" if kind == "qwen3" else "qwen3"
    model, teacher = load_model(str(folders[kind])), load_model(str(folders[other]))
    with torch.inference_mode():
        hidden, expert = (one.hidden_states(IDS[None, :6])[0] for one in (model, teacher))
        (scored,) = score_rows(
            IDS[:6], Rows(teacher.head, expert), [Rows(model.head, hidden)], Measures((2, 4))
        )
    own = AutoModelForCausalLM.from_pretrained(folders[kind], dtype=torch.float64).eval()
    log_q = teacher.head.logits(expert).double().log_softmax(1)
    layer = own.get_output_embeddings()
    for row in range(6):
        leaf = hidden[row].double()[None, None].clone().requires_grad_()
        # The head reads this row in place of what the body gives it.
        with layer.register_forward_pre_hook(lambda *_, leaf=leaf: (leaf,)):
            logits = own(IDS[None, :1]).logits
        logits.retain_grad()
        log_p = logits[0, 0].log_softmax(0)
        own.zero_grad()
        (log_p.exp() * (log_p - log_q[row])).sum().backward()
        want = {"grad_logits": logits, "grad_hidden": leaf, "grad_head": layer.weight}
        for name, tensor in want.items():
            norm = float(tensor.grad.norm())
            assert float(scored.columns[name][row]) == pytest.approx(norm, rel=2e-4), name
        size = float(leaf.grad.abs().max())
        torch.testing.assert_close(
            scored.gradient[row].double(), leaf.grad[0, 0], rtol=2e-4, atol=2e-4 * size
        )


def test_bfloat16_models_get_a_float32_head_on_the_cpu(folders):
    model = load_model(str(folders["qwen3"]), Loading(dtype="bfloat16"))
    assert model.model.dtype == torch.bfloat16
    assert model.head.weight.dtype == torch.float32
    verify_head(model, IDS)


def test_padding_on_the_right_changes_nothing(folders):
    model = load_model(str(folders["qwen3"]))
    short = torch.nn.functional.pad(IDS[:20], (0, 17))
    with torch.inference_mode():
        alone = model.hidden_states(IDS[None, :20])[0]
        beside = model.hidden_states(torch.stack((IDS, short)))[1, :20]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)


def broken(folder: Path, folders: dict[str, Path], what: str) -> None:
    shutil.copytree(folders["qwen3"], folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if what == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "no config":
        config.unlink()
    elif what == "config is no JSON":
        config.write_text("{")
    elif what == "other shapes":
        settings = json.loads(config.read_text()) | {"hidden_size": 64}
        config.write_text(json.dumps(settings))
    elif what == "one layer more":
        settings = json.loads(config.read_text()) | {"num_hidden_layers": 3}
        settings.pop("layer_types", None)
        config.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    "what",
    ["truncated weights", "no config", "config is no JSON", "other shapes", "one layer more"],
)
def test_a_model_that_cannot_be_loaded_is_one_line(folders, tmp_path, what):
    folder = tmp_path / "model"
    broken(folder, folders, what)
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))


def test_fingerprints_name_every_file_and_see_a_changed_byte(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["qwen3"], folder)
    first = fingerprint(str(folder))
    assert set(first) == {"config.json", "model.safetensors"}
    assert fingerprint(str(folders["qwen3"])) == first
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    second = fingerprint(str(folder))
    assert second["model.safetensors"] != first["model.safetensors"]
    assert second["config.json"] == first["config.json"]


def test_digests_come_from_the_cache_while_the_file_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    digest = digest_file(file)
    stat = file.stat()
    file.write_bytes(b"two")
    assert digest_file(file) != digest
    file.write_bytes(b"one")
    before = digest_file(file)
    with monkeypatch.context() as patch:
        patch.setattr("opd_diag.scoring.models.fingerprints.hashlib.file_digest", None)
        assert digest_file(file) == before
    # Another file of the same size whose time was set back, as `cp -p` does.
    stat = file.stat()
    file.write_bytes(b"six")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest_file(file) != before
    (tmp_path / "cache" / "opd-diag" / "digests.json").write_text("[broken")
    assert digest_file(file) == digest_file(file) != before


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["model.safetensors", "training_args.bin"], ["model.safetensors"]),
        (["b.safetensors", "a.safetensors", "c.bin"], ["a.safetensors", "b.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "scheduler.bin"], ["pytorch_model.bin"]),
        (["pytorch_model-2.bin", "pytorch_model-1.bin"], None),
        (["adapter_model.bin", "optimizer.bin"], ["adapter_model.bin"]),
        (["consolidated.bin"], None),
        (["model.gguf", "training_args.bin"], ["model.gguf"]),
    ],
)
def test_what_a_trainer_leaves_is_no_part_of_a_fingerprint(tmp_path, files, weights):
    for name in ("config.json", "trainer_state.json", *files):
        (tmp_path / name).write_text("{}")
    assert list(fingerprint(str(tmp_path))) == ["config.json", *(weights or sorted(files))]


def test_the_arguments_of_a_trainer_are_no_weights(tmp_path):
    (tmp_path / "training_args.bin").touch()
    with pytest.raises(ModelError, match="no weights in this folder"):
        fingerprint(str(tmp_path))


def test_an_empty_folder_has_no_fingerprint(tmp_path):
    with pytest.raises(ModelError, match="no weights in this folder"):
        fingerprint(str(tmp_path))


def test_a_model_spread_by_accelerate_gives_the_same_logits(folders):
    plain = load_model(str(folders["qwen3"]))
    spread = load_model(str(folders["qwen3"]), Loading(device_map="auto"))
    with torch.inference_mode():
        states = [model.hidden_states(IDS[None]) for model in (plain, spread)]
        torch.testing.assert_close(*states)
        logits = [model.head.logits(s[0]) for model, s in zip((plain, spread), states, strict=True)]
    torch.testing.assert_close(*logits)


def test_a_head_that_lies_on_the_disk_is_brought_back(folders, tmp_path):
    plain, offloaded = (load_model(str(folders["qwen3"])) for _ in range(2))
    disk_offload(offloaded.model, tmp_path, execution_device=torch.device("cpu"))
    assert offloaded.model.lm_head.weight.device.type == "meta"
    head = find_head("offloaded", offloaded.model, "cpu")
    torch.testing.assert_close(head.weight, plain.head.weight)


def test_an_adapter_without_peft_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    base = '{"base_model_name_or_path": "somebody/base"}'
    (tmp_path / "adapter_config.json").write_text(base)
    with pytest.raises(ModelError, match="an adapter; expected peft beside it"):
        load_model(str(tmp_path))
