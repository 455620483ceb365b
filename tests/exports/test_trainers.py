"""What trainers' own loaders make of an export; each test runs where its trainer is installed.

`make trainers` makes an environment with TRL, Tinker, tensordict and datasets, and runs them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

import opd_diag as od
from opd_diag.tables.run import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the trainers are theirs


def sequences(run: Run, rule: str, **options: Any) -> list[tuple[list[int], np.ndarray]]:
    """Ids of the whole sequence and the weight of each as a target."""
    weights = od.token_weights(run, rule=rule, **options)
    lists = weights.group_by("rollout", maintain_order=True).agg("weight")["weight"].to_list()
    rows = run.rollouts.select("prompt_token_ids", "response_token_ids").iter_rows()
    return [
        (prompt + response, np.array([0.0] * len(prompt) + own))
        for (prompt, response), own in zip(rows, lists, strict=True)
    ]


def weighted_loss(model: Any, ids: list[int], weights: np.ndarray) -> tuple[float, float]:
    """Sum of weight times -log p(target), by hand in float64, and the sum of weights."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    logp = torch.log_softmax(logits, dim=-1)
    loss = sum(
        -weights[place] * float(logp[place - 1, ids[place]])
        for place in range(1, len(ids))
        if weights[place]
    )
    return loss, float(weights[1:].sum())


def test_one_step_of_trl_has_the_loss_of_the_weights(
    exported_run: Run, student: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    exported = od.export(exported_run, rule="trap", to="trl", out=tmp_path / "export")
    rows = datasets.load_dataset(
        "parquet", data_files=exported.arms["path"][0], split="train", cache_dir=tmp_path / "cache"
    )
    model = Qwen3ForCausalLM.from_pretrained(student, dtype=torch.float32)
    kept = [one for one in sequences(exported_run, "trap") if one[1].any()]
    sums = [weighted_loss(model, ids, weights) for ids, weights in kept]
    expected = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=1,
        per_device_train_batch_size=len(kept),
        learning_rate=1e-3,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = trl.SFTTrainer(
        model=model, args=arguments, train_dataset=rows, processing_class=tiny_tokenizer
    )
    trainer.train()
    logged = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert logged == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_tinker_reads_every_datum(exported_run: Run, tmp_path: Path) -> None:
    tinker = pytest.importorskip("tinker")
    exported = od.export(
        exported_run, rule="selector:tip@10%", soft=True, to="tinker", out=tmp_path / "export"
    )
    lines = Path(exported.arms["path"][0]).read_text().splitlines()
    expected = sequences(exported_run, "selector:tip@10%", soft=True)
    assert len(lines) == len(expected)
    for line, (ids, weights) in zip(lines, expected, strict=True):
        one = json.loads(line)
        datum = tinker.Datum(
            model_input=tinker.ModelInput.model_validate(one["model_input"]),
            loss_fn_inputs={n: tinker.TensorData(**t) for n, t in one["loss_fn_inputs"].items()},
        )
        targets, own = (datum.loss_fn_inputs[name] for name in ("target_tokens", "weights"))
        assert datum.model_input.to_ints() == ids[:-1]
        assert targets.to_numpy().tolist() == ids[1:]
        assert targets.dtype == "int64"
        assert own.to_numpy() == pytest.approx(weights[1:], rel=1e-6)


def test_verl_batches_are_jagged_and_grouped(exported_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensordict")
    exported = od.export(exported_run, rule="trap", to="verl", out=tmp_path / "export")
    folder = Path(exported.arms["path"][0])
    (inner,) = folder.glob("*/*")
    payload = torch.load(inner / "tq_batch.pt", weights_only=False)
    assert json.loads((inner / "meta.json").read_text())["num_trajectories"] == 28
    groups: dict[str, int] = {}
    for key in payload["keys"]:
        uid, _, _ = key.split("_")
        groups[uid] = groups.get(uid, 0) + 1
    assert sorted(groups.values()) == [2] * 14
    batch = payload["tensordict"]
    assert batch["loss_mask"].dtype == torch.int64
    masks = [row.tolist() for row in batch["loss_mask"].unbind()]
    whole = [row.tolist() for row in batch["input_ids"].unbind()]
    for ids, mask, (expected, weights) in zip(
        whole, masks, sequences(exported_run, "trap"), strict=True
    ):
        assert ids == expected
        assert mask == weights[-len(mask) :].tolist()


def test_llama_factory_loads_a_tokenised_dataset(exported_run: Run, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    exported = od.export(exported_run, rule="trap", to="llama-factory", out=tmp_path / "export")
    rows = datasets.load_from_disk(exported.arms["path"][0])["train"]
    for row, (ids, weights) in zip(rows, sequences(exported_run, "trap"), strict=True):
        assert row["input_ids"] == ids
        assert row["attention_mask"] == [1] * len(ids)
        assert [label != -100 for label in row["labels"]] == (weights > 0).tolist()


def test_axolotl_and_skyrl_read_their_columns_with_datasets(
    exported_run: Run, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    for to in ("axolotl", "skyrl"):
        exported = od.export(exported_run, rule="trap", to=to, out=tmp_path / to)
        rows = datasets.load_dataset(
            "parquet", data_files=exported.arms["path"][0], split="train", cache_dir=tmp_path / "c"
        )
        own = ["attention_mask", "labels"] if to == "axolotl" else ["loss_mask"]
        assert set(rows.column_names) == {"input_ids", *own}
        assert rows.num_rows == exported_run.rollouts.height
        table = pl.read_parquet(exported.arms["path"][0])
        assert rows[3]["input_ids"] == table["input_ids"][3].to_list()


def test_ms_swift_encodes_ids_and_scales_as_they_stand(
    exported_run: Run, student: str, tmp_path: Path
) -> None:
    swift = pytest.importorskip("swift", minversion="4.0")
    exported = od.export(exported_run, rule="release", to="ms-swift", out=tmp_path / "export")
    processor = swift.get_processor(student, model_type="qwen3", use_hf=True)
    template = swift.get_template(processor, template_type="dummy", is_binary_loss_scale=False)
    template.set_mode("train")
    lines = Path(exported.arms["path"][0]).read_text().splitlines()
    for line, (ids, weights) in zip(lines, sequences(exported_run, "release"), strict=True):
        encoded = template.encode(json.loads(line))
        assert encoded["input_ids"] == ids
        assert encoded["loss_scale"] == pytest.approx(weights, rel=1e-6)
