"""First-order changes of KL along an update: against differences, laws, and planted updates."""

from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

import opd_diag as od
from opd_diag.errors import ModelError, ModelMismatchError, OptionError
from opd_diag.reports.token_data import token_view
from opd_diag.scoring.models.loading import Loading, load_model
from opd_diag.tables.run import Run
from opd_diag.updates import tokens as update_parts
from opd_diag.updates.derivatives import (
    Derivatives,
    Direction,
    TeacherRows,
    central_differences,
    derivatives,
    gradients,
    random_direction,
    tied_parameter,
    update_direction,
)
from opd_diag.updates.subspace import subspace_table
from opd_diag.updates.summary import SPLITS, label_tokens, summarise
from opd_diag.updates.tokens import sample_rollouts

# torch's own forward mode compiles its helpers with it, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

SHAPE = {
    "vocab_size": 336,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
EAGER = Loading(attn="eager")
SAMPLE = Path(__file__).parents[2] / "sample_data"


def moved(folder: str, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> str:
    """Save a model with every parameter changed."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(change(name, parameter))
    model.save_pretrained(target)
    for path in Path(folder).glob("*token*"):
        (target / path.name).write_bytes(path.read_bytes())
    for path in Path(folder).glob("*.jinja"):
        (target / path.name).write_bytes(path.read_bytes())
    return str(target)


def noise(seed: int, size: float) -> Callable[[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda _, p: size * torch.randn(p.shape, generator=generator)


def llama(tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))


def gemma() -> Gemma2ForCausalLM:
    torch.manual_seed(6)
    return Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, final_logit_softcapping=5.0, attn_logit_softcapping=8.0)
    )


@pytest.mark.parametrize("shape", ["qwen3", "llama", "llama tied", "gemma soft cap"])
def test_derivatives_agree_with_central_differences(
    shape: str, student: str, teacher: str, save_model: Any, tmp_path: Path, ids: int
) -> None:
    folder = student
    if shape.startswith("llama"):
        folder = save_model(llama(shape.endswith("tied")))
    elif shape.startswith("gemma"):
        folder = save_model(gemma())
    before = load_model(folder, EAGER)
    after = load_model(moved(folder, tmp_path / "after", noise(1, 0.02)), EAGER)
    big = load_model(teacher)
    direction = update_direction(before, after)
    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(3, ids, 40))
    with torch.no_grad():
        states = big.hidden_states(tokens[None])[0, 9:]
    rows = TeacherRows(big.head.cut(0, ids), states, temperature=0.8)
    arguments = (before, before.head.cut(0, ids), direction, tokens, 10, rows)
    ours = derivatives(*arguments, temperature=0.8)
    theirs = central_differences(*arguments, temperature=0.8)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == (31,)
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-3 * float(other.abs().max()))
    tied = tied_parameter(before)
    assert (tied is not None) == (shape in ("llama tied", "gemma soft cap"))
    along, parts = loss_along(before, direction, tokens, rows, 0.8)
    assert float(ours.reverse_kl.sum()) == pytest.approx(along, rel=1e-3)
    matrices = [name for name, p in before.body.named_parameters() if p.ndim == 2]
    head = before.head.cut(0, ids)
    found = gradients(before, head, tokens, 10, rows, matrices, tied=tied, temperature=0.8)
    for name in matrices:
        size = float(parts[name].abs().max())
        torch.testing.assert_close(found[name], parts[name], rtol=1e-3, atol=1e-4 * size)


def loss_along(
    model: Any, direction: Direction, tokens: torch.Tensor, teacher: TeacherRows, temperature: float
) -> tuple[float, dict[str, torch.Tensor]]:
    """Let autograd differentiate the summed KL of the model's own logits, all parameters at once.

    Returns:
        The derivative along the direction, and the gradient by name of the body's parameter.
    """
    log_q = torch.cat([part for _, part in teacher])
    logits = model.model(input_ids=tokens[None], use_cache=False).logits[0, 9:, : log_q.shape[1]]
    log_p = torch.log_softmax(logits.float() / temperature, dim=1)
    loss = (log_p.exp() * (log_p - log_q)).sum()
    body = dict(model.body.named_parameters())
    head = {"head": model.model.get_output_embeddings().weight}
    named = body if tied_parameter(model) else body | head
    parts = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    tangents = {**direction.body, "head": direction.weight}
    return sum(float((part * tangents[name]).sum()) for name, part in parts.items()), parts


def test_derivatives_agree_with_central_differences_on_the_sample_models() -> None:
    teacher, before, after = (
        load_model(str(SAMPLE / name), EAGER)
        for name in ("teacher", "students/step0", "students/step150")
    )
    tokens = torch.tensor(np.random.default_rng(2).integers(200, 600, 80))
    ids = min(len(model.head.weight) for model in (teacher, before))
    with torch.no_grad():
        states = teacher.hidden_states(tokens[None])[0, 19:]
    rows = TeacherRows(teacher.head.cut(0, ids), states)
    arguments = (before, before.head.cut(0, ids), update_direction(before, after), tokens, 20, rows)
    for one, other in zip(derivatives(*arguments), central_differences(*arguments), strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.9999


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_update_to_an_adapter_is_its_product(student: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(student)
    low = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, low)
    adapted.save_pretrained(tmp_path / "adapter")
    update = update_direction(
        load_model(student, EAGER), load_model(str(tmp_path / "adapter"), EAGER)
    )
    for name, tangent in update.body.items():
        if "q_proj" not in name:
            assert not tangent.any()
            continue
        layer = adapted.get_submodule(f"base_model.model.model.{name.removesuffix('.weight')}")
        a, b = (getattr(layer, side)["default"].weight for side in ("lora_A", "lora_B"))
        torch.testing.assert_close(tangent, 3 * (b @ a).detach(), rtol=1e-3, atol=1e-6)


def test_a_random_direction_is_as_long_in_every_matrix_and_tied_where_the_model_is(
    save_model: Any, tmp_path: Path
) -> None:
    folder = save_model(llama(tied=True))
    before = load_model(folder, EAGER)
    after = load_model(moved(folder, tmp_path / "after", noise(2, 0.05)), EAGER)
    update = update_direction(before, after)
    tied = tied_parameter(before)
    drawn = random_direction(update, tied=tied, seed=3)
    for name, tangent in update.body.items():
        assert float(drawn.body[name].norm()) == pytest.approx(float(tangent.norm()), rel=1e-4)
        assert not torch.allclose(drawn.body[name], tangent)
    assert tied is not None
    assert torch.equal(drawn.weight, drawn.body[tied])
    # The update of a tied head is the embedding's own: it is counted once.
    assert torch.allclose(update.weight, update.body[tied])


@pytest.fixture(scope="module")
def rollouts(make_rollouts: Any, ids: int) -> Any:
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, ids, 6).tolist() for _ in range(8) for _ in range(2)]
    responses = [rng.integers(3, ids, 24).tolist() for _ in range(16)]
    return make_rollouts(
        prompts,
        responses,
        prompt_id=[f"p{i // 2}" for i in range(16)],
        correct=[i % 3 == 0 for i in range(16)],
        half=[(i // 2) % 2 for i in range(16)],
    )


def score(rollouts: Any, teacher: str, students: dict[str, str], out: Path) -> Run:
    return od.score(rollouts, teacher=teacher, students=students, out=out)


def test_the_sum_over_tokens_is_the_derivative_of_the_mean_loss(
    rollouts: Any, teacher: str, student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = 1e-4
    after = moved(student, tmp_path / "after", noise(4, small))
    run = score(rollouts, teacher, {"a": student, "b": after}, tmp_path / "run")
    found = od.update_alignment(run, without_random=True)
    assert "a to b: 16 of 16 rollouts; " in capsys.readouterr().err  # all fit into ten minutes
    assert [update_parts.affordable(seconds, 16) for seconds in (60, 1e9)] == [10, 1]
    tokens = found.update_tokens
    assert tokens.height == 16 * 24
    # For so small an update what was realised is the first order, token by token and in sum.
    for kl in ("reverse_kl", "forward_kl"):
        first = tokens[f"first_order_{kl}"].cast(pl.Float64).to_numpy()
        real = tokens[f"realised_{kl}"].cast(pl.Float64).to_numpy()
        assert np.corrcoef(first, real)[0, 1] > 0.99
        assert first.sum() == pytest.approx(real.sum(), abs=0.05 * np.abs(first).sum())
    table = found.update_alignment
    whole = table.row(
        by_predicate=(pl.col("split") == "all") & (pl.col("kl") == "reverse_kl"), named=True
    )
    first = tokens["first_order_reverse_kl"].cast(pl.Float64)
    assert whole["sum"] == pytest.approx(first.sum(), rel=1e-6)
    assert whole["mean"] == pytest.approx(first.mean(), rel=1e-6)
    correct = table.filter(split="correct", kl="reverse_kl")
    assert correct["sum"].sum() == pytest.approx(whole["sum"], rel=1e-6)
    assert correct["token_share"].sum() == pytest.approx(1)


def digit_update(
    student: str, teacher: str, rollouts: Any, digits: set[int], target: Path, ids: int
) -> str:
    """Move a student one small step down the gradient of reverse KL on some tokens alone."""
    model, big = (AutoModelForCausalLM.from_pretrained(f) for f in (student, teacher))
    loss = torch.zeros(())
    for prompt, response in rollouts.table.select(
        "prompt_token_ids", "response_token_ids"
    ).iter_rows():
        inputs = torch.tensor([prompt + response[:-1]])
        ids = 324
        log_p = torch.log_softmax(model(inputs).logits[0, len(prompt) - 1 :, :ids], 1)
        with torch.no_grad():
            log_q = torch.log_softmax(big(inputs).logits[0, len(prompt) - 1 :, :ids], 1)
        kl = (log_p.exp() * (log_p - log_q)).sum(1)
        loss = loss + kl[torch.tensor([i in digits for i in response])].sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    by_name = dict(zip((n for n, _ in model.named_parameters()), gradients, strict=True))
    size = sum(float(g.square().sum()) for g in gradients) ** 0.5
    return moved(student, target, lambda name, _: -1e-3 * by_name[name] / size)


def test_an_update_that_serves_some_tokens_is_found_to_and_a_random_one_serves_nobody(
    rollouts: Any, teacher: str, student: str, tmp_path: Path, ids: int
) -> None:
    digits = set(range(3, 40))
    served = digit_update(student, teacher, rollouts, digits, tmp_path / "served", ids)
    random = moved(student, tmp_path / "random", noise(9, 1e-5))
    shares = {}
    for name, folder in (("served", served), ("random", random)):
        run = score(rollouts, teacher, {"a": student, "b": folder}, tmp_path / f"run {name}")
        count = 4 if name == "random" else 16
        found = od.update_alignment(run, rollouts=count, without_random=name != "random")
        rows = found.update_tokens.join(
            run.tokens("a").collect().select("rollout", "position", "token_id"),
            on=["rollout", "position"],
        )
        token_id = rows["token_id"]
        change = rows["first_order_reverse_kl"].cast(pl.Float64).to_numpy()
        digit = token_id.is_in(list(digits)).to_numpy()
        shares[name] = change[digit].mean(), change[~digit].mean(), found
    on, off, _ = shares["served"]
    assert on < 0
    assert abs(off) < 0.35 * abs(on)
    _, _, found = shares["random"]
    row = found.update_alignment.filter(split="all", kl="reverse_kl").row(0, named=True)
    assert abs(row["mean"] - row["random_mean"]) < 4 * row["random_sd"]


@pytest.fixture(scope="module")
def run(rollouts: Any, teacher: str, student: str, tmp_path_factory: Any) -> Run:
    """Three checkpoints: down the gradient of all tokens, and on from there at random."""
    folder = tmp_path_factory.mktemp("three")
    second = digit_update(student, teacher, rollouts, set(range(3, 320)), folder / "b", 324)
    third = moved(second, folder / "c", noise(4, 0.01))
    return score(rollouts, teacher, {"a": student, "b": second, "c": third}, folder / "run")


def test_parts_are_kept_and_the_subspace_has_its_floor(run: Run, tmp_path: Path) -> None:
    first = od.update_alignment(run, rollouts=4, without_random=True)
    (part,) = (run.path / "updates" / "a--b").iterdir()
    stamp = part.stat().st_mtime_ns
    again = od.update_alignment(
        run, rollouts=4, without_random=True, subspace=4, matrices="*o_proj.weight"
    )
    assert part.stat().st_mtime_ns == stamp
    assert again.update_tokens.equals(first.update_tokens)
    table = again.update_subspace.filter(checkpoint="b")
    assert set(table["matrix"]) == {f"layers.{i}.self_attn.o_proj.weight" for i in (0, 1)}
    assert set(table["floor"]) == {4 / 32}
    assert table["rho"].is_between(0, 1).all()
    for (_, _), rows in table.group_by("split", "matrix"):
        assert rows["n"].n_unique() == 1
    whole = od.update_alignment(
        run, rollouts=4, without_random=True, subspace=32, matrices="*layers.0*o_proj.weight"
    ).update_subspace
    assert whole["rho"].to_numpy() == pytest.approx(1, rel=1e-4)
    run.save(again, folder=tmp_path)
    assert run.result("update_subspace", tmp_path).equals(again.update_subspace)


@pytest.mark.parametrize("rows", [1, 6])
def test_a_group_of_one_half_of_the_prompts_is_told_from_halves_that_disagree(rows: int) -> None:
    """Matrices of one element too, whose shape tells nothing."""
    gradient = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0))
    gradient = gradient[:, :1] if rows == 1 else gradient

    class Maker:
        def gradient(self, rollout: int, positions: Any, matrices: Any) -> Any:
            sign = -1 if rollout == 2 else 1  # the opposite of what rollout 0 asks for
            return {name: sign * len(positions) * gradient for name in matrices}

    halves = {0: 0, 1: 0, 2: 1}  # by rollout
    each = 30
    labels = pl.DataFrame(
        {
            "rollout": np.repeat(list(halves), each),
            "position": np.tile(np.arange(each), len(halves)),
            "half": np.repeat(list(halves.values()), each),
            "in_loss": True,
            "phase": np.repeat(["both", "alone", "both"], each),
        }
    ).with_columns(pl.lit(None, pl.String).alias(name) for name in SPLITS if name != "phase")
    direction = Direction({"m": torch.eye(rows, gradient.shape[1])}, torch.zeros(1, 1), None)
    table = subspace_table(
        Maker(),
        direction,
        labels,
        ("a", "b"),
        directions=1,
        matrices=["m"],
        seed=0,  # type: ignore[arg-type]
    )
    alone, both = table.sort("group").select("rho", "cross_half", "reason").rows(named=True)
    share = float(gradient[0].square().sum() / gradient.square().sum())
    assert alone["rho"] == pytest.approx(share, rel=1e-5)
    assert alone["cross_half"] is None
    assert alone["reason"] == "one half of the prompts has no such token"
    assert both["cross_half"] is None
    assert both["reason"] == "the halves share no direction"


def test_first_tokens_have_the_derivatives_of_the_whole_and_parts_of_others_are_not_kept(
    run: Run,
) -> None:
    """A token's derivative depends on none after it."""
    whole = od.update_alignment(run, rollouts=2, without_random=True).update_tokens
    part = od.update_alignment(run, rollouts=2, max_tokens=7, without_random=True).update_tokens
    expected = whole.filter(pl.col("position") < 7)
    assert part.height == expected.height == 2 * 2 * 7
    for name in ("first_order_reverse_kl", "first_order_forward_kl"):
        np.testing.assert_allclose(part[name], expected[name], rtol=1e-3, atol=1e-6)
    drawn = od.update_alignment(run, rollouts=1, max_tokens=7).update_tokens
    assert part["random_reverse_kl"].is_null().all()
    assert drawn["random_reverse_kl"].is_not_null().all()
    kept = od.update_alignment(run, rollouts=1, max_tokens=7, without_random=True).update_tokens
    assert kept.equals(drawn)


def test_the_next_update_stands_beside_the_same_tokens(run: Run) -> None:
    result = od.update_alignment(run, rollouts=8, without_random=True)
    tokens = result.update_tokens.filter(checkpoint="c")
    about = run.rollouts.select("rollout", "correct")
    groups = tokens.join(about, on="rollout").group_by("correct").agg(
        mean=pl.col("first_order_reverse_kl").cast(pl.Float64).mean()
    )  # fmt: skip
    expected = dict(groups.iter_rows())
    rows = result.update_alignment.filter(split="correct", kl="reverse_kl", checkpoint="b")
    for group, mean in rows.select("group", "later_mean").iter_rows():
        assert mean == pytest.approx(expected[group == "correct"], rel=1e-6)
    assert rows["share"].sum() == pytest.approx(1)
    last = result.update_alignment.filter(checkpoint="c")
    assert last["later_mean"].is_null().all()


def test_a_result_of_some_rollouts_says_nothing_of_the_others(run: Run) -> None:
    points = od.release_points(run, checkpoint="a").release_points
    known = points["rollout"].to_list()[::2]
    (path,) = run.save({"release_points": points.filter(pl.col("rollout").is_in(known))},
                       arguments={})  # fmt: skip
    try:
        tokens = run.tokens("a").select("rollout", "position").collect()
        labels = label_tokens(run, tokens, "a")
    finally:
        path.unlink()
    inside = labels["rollout"].is_in(known)
    assert labels.filter(inside)["release"].is_not_null().all()
    assert labels.filter(~inside)["release"].is_null().all()


def test_tokens_whose_derivative_is_unknown_are_not_counted(run: Run) -> None:
    tokens = od.update_alignment(run, rollouts=6, without_random=True).update_tokens
    own = tokens.filter(checkpoint="b")
    forward = pl.when(pl.col("position") % 2 == 0).then("first_order_forward_kl")
    own = own.with_columns(first_order_forward_kl=forward)
    labels = label_tokens(run, own, "a")
    table = summarise(own, labels, seed=0).filter(split="all")
    counted = own.filter(labels["in_loss"])
    for row in table.to_dicts():
        known = counted[f"first_order_{row['kl']}"].drop_nulls().cast(pl.Float64)
        assert row["n"] == len(known)
        assert row["mean"] == pytest.approx(known.mean())
        assert row["sum"] == pytest.approx(known.sum())
        assert row["token_share"] == 1


def test_a_rollout_without_a_response_is_left_out(
    make_rollouts: Any, ids: int, teacher: str, student: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    prompts, responses = (
        [rng.integers(3, ids, n).tolist() for n in lengths] for lengths in ([4] * 4, [5, 0, 6, 4])
    )
    rollouts = make_rollouts(prompts, responses)
    other = moved(student, tmp_path / "b", noise(7, 0.01))
    run = score(rollouts, teacher, {"a": student, "b": other}, tmp_path / "run")
    result = od.update_alignment(run, without_random=True)
    assert set(result.update_tokens["rollout"]) == {0, 2, 3}
    whole = result.update_alignment.filter(split="all", kl="reverse_kl")
    assert whole["n"].to_list() == [15]
    with pytest.raises(OptionError, match="none has a response; expected one"):
        sample_rollouts(run.rollouts.filter(rollout=1), seed=0)


def test_strip_and_report_colour_tokens_by_the_first_order(run: Run) -> None:
    with pytest.raises(OptionError, match="expected `opd-diag analyze update-alignment` before"):
        od.token_strip(run, 0, column="first_order", checkpoint="a")
    assert "first_order" not in [one["name"] for one in token_view(run, {0: ["chosen"]})["colours"]]
    result = od.update_alignment(run, rollouts=3, without_random=True)
    paths = run.save(result)
    row = int(result.update_tokens["rollout"][0])
    strip = od.token_strip(run, row, column="first_order")
    own = result.update_tokens.filter(rollout=row, checkpoint="b")["first_order_reverse_kl"]
    np.testing.assert_allclose(strip["value"], own)
    view = token_view(run, {row: ["chosen"]})
    assert view["colours"][-1]["name"] == "first_order"
    packed = np.frombuffer(b64decode(view["rollouts"][0]["columns"]["a"]["first_order"]), "<f4")
    np.testing.assert_array_equal(packed, own)
    other = next(i for i in range(16) if i not in result.update_tokens["rollout"])
    with pytest.raises(OptionError, match=f"not known of rollout {other}; expected "):
        od.token_strip(run, other, column="first_order")
    for path in paths:
        path.unlink()


def test_a_wrong_derivative_and_a_lack_of_memory_end_the_analysis(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = update_parts.central_differences

    def off(*arguments: Any, **options: Any) -> Derivatives:
        reverse, forward = right(*arguments, **options)
        return Derivatives(reverse, 1.1 * forward)

    with monkeypatch.context() as patch:
        patch.setattr(update_parts, "central_differences", off)
        with pytest.raises(ModelError, match=r"differ from central differences by 9\.\d% of the"):
            od.update_alignment(run, rollouts=1, without_random=True)
    heads = 4
    room = update_parts.SCORES * heads * 4 * 20**2
    monkeypatch.setattr(update_parts, "free_memory", lambda device: room)
    with pytest.raises(OptionError, match=r"attention of 30 tokens .* at most 20 .*-tokens 14\)"):
        od.update_alignment(run, rollouts=1, without_random=True)
    assert od.update_alignment(run, rollouts=1, max_tokens=14, without_random=True)


def test_what_makes_no_sense_is_refused(
    rollouts: Any, teacher: str, student: str, later: str, tmp_path: Path
) -> None:
    one = score(rollouts, teacher, {"a": student}, tmp_path / "one")
    with pytest.raises(OptionError, match="one checkpoint; expected two"):
        od.update_alignment(one)
    run = od.score(
        rollouts,
        teacher=teacher,
        students={"a": student, "b": later},
        out=tmp_path / "two",
        max_response_tokens=9,
    )
    # Tokens that were not scored are not differentiated either.
    assert od.update_alignment(run, rollouts=1, without_random=True).update_tokens.height == 9
    with pytest.raises(OptionError, match="rollouts: 0"):
        od.update_alignment(run, rollouts=0)
    for other in ({"students": {"b": student}}, {"teacher": student}):
        with pytest.raises(ModelMismatchError, match="other weights than those that were scored"):
            od.update_alignment(run, **other)
    with pytest.raises(OptionError, match="students: no checkpoint 'c'; expected one of a, b"):
        od.update_alignment(run, students={"c": student})
    with pytest.raises(OptionError, match="max_tokens: 0"):
        od.update_alignment(run, max_tokens=0)
    of_logprobs = od.open_run(run.path)
    of_logprobs.manifest.teacher.source = "log-probs"
    of_logprobs.manifest.fingerprint["teacher"] = {}
    with pytest.raises(OptionError, match="log-probs of the teacher, .* --teacher FOLDER, weights"):
        od.update_alignment(of_logprobs)
    by_hand = od.update_alignment(of_logprobs, teacher=teacher, rollouts=1, without_random=True)
    assert by_hand.update_tokens.height == 9
    gone = od.open_run(run.path)
    gone.manifest.checkpoints["b"].path = "models/students/b"
    with pytest.raises(ModelError, match=r"checkpoint b: models/.*manifest.* --student b=FOLDER$"):
        od.update_alignment(gone)
    of_states = od.open_run(run.path)
    of_states.manifest.fingerprint["teacher_states"] = {}
    with pytest.raises(OptionError, match="scored with hidden states of the teacher; expected"):
        od.update_alignment(of_states)
    with pytest.raises(OptionError, match="fits none"):
        od.update_alignment(run, rollouts=1, without_random=True, subspace=2, matrices="no such*")


def test_the_sample_spreads_over_prompts() -> None:
    frame = pl.DataFrame({"rollout": range(30), "prompt_id": [f"p{i // 3}" for i in range(30)]})
    frame = frame.with_columns(response_token_ids=pl.lit([1], pl.List(pl.Int32)))
    order = sample_rollouts(frame, seed=0)
    assert sorted(order) == list(range(30))
    for start in (0, 10, 20):
        assert len({rollout // 3 for rollout in order[start : start + 10]}) == 10
    assert order != sample_rollouts(frame, seed=1)


def test_the_figures_draw_what_the_tables_hold(run: Run) -> None:
    found = od.update_alignment(run, rollouts=8, without_random=True)
    ax = od.plots.update_alignment(found.update_alignment)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert {"correct", "wrong"} <= set(labels)
    points = od.plots.update_tokens(found.update_tokens).lines[1]
    assert points.get_xdata().size == found.update_tokens.filter(checkpoint="b").height
    empty = found.update_tokens.head(0)
    assert od.plots.update_tokens(empty).texts
