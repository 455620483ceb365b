"""verl's token-exact batches and the traces of verifiers, as their own programs wrote them."""

import contextlib
import gzip
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from opd_diag.errors import RolloutError
from opd_diag.rollouts import read_rollouts

REAL = Path(__file__).parent / "real"
TRACES = REAL / "traces"
STEP = Path("rollouts") / "step_7" / "train"


# --- verl -----------------------------------------------------------------------------------------


def test_a_batch_of_verl_is_read_token_by_token() -> None:
    pytest.importorskip("tensordict")
    check_batch(read_rollouts(REAL / "verl_batch", trust_pickle=True))


def test_a_batch_reads_the_same_out_of_any_mapping_of_jagged_tensors(tmp_path) -> None:
    """What tensordict adds to a dict is its class, which a machine without it cannot load."""

    def jagged(*rows: object) -> torch.Tensor:
        return torch.nested.as_nested_tensor(
            [torch.tensor(row) for row in rows], layout=torch.jagged
        )

    prompts, responses = [[1, 20, 21], [1, 22]], [[30, 31, 2], [32, 33, 34, 2]]
    masks = [[1, 1, 1], [1, 0, 0, 1]]
    best = [[*(p + r)[1:], 0] for p, r in zip(prompts, responses, strict=True)]
    logps = [
        [-token / 64 * kept for token, kept in zip(*both, strict=True)]
        for both in zip(responses, masks, strict=True)
    ]
    fields = {
        "prompts": jagged(*prompts),
        "responses": jagged(*responses),
        "response_mask": jagged(*masks),
        "rollout_log_probs": jagged(*logps),
        "rm_scores": jagged([0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]),
        "teacher_ids": jagged(*([[token + 100, token] for token in row] for row in best)),
        "teacher_logprobs": jagged(*([[0.0, -token / 128] for token in row] for row in best)),
        "data_source": ["adding", "adding"],
        "reward_model": [{"ground_truth": "7"}] * 2,
    }
    uids = ["0b9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6a", "1c9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6b"]
    content = {"tensordict": fields, "keys": [f"{uid}_1_0" for uid in uids], "tags": [{}, {}]}
    torch.save(content | {"global_steps": 5}, tmp_path / "tq_batch.pt")
    check_batch(read_rollouts(tmp_path / "tq_batch.pt", trust_pickle=True))


def check_batch(read) -> None:
    table = read.table
    assert read.report["format"] == "verl-batch"
    assert table["prompt_token_ids"].to_list() == [[1, 20, 21], [1, 22]]
    assert table["response_token_ids"].to_list() == [[30, 31, 2], [32, 33, 34, 2]]
    assert table["loss_mask"].to_list() == [None, [True, False, False, True]]
    assert table["sampled_logp"][0].to_list() == [-30 / 64, -31 / 64, -2 / 64]
    assert table["sampled_logp"][1].to_list() == [-0.5, 0.0, 0.0, -2 / 64]
    # Row j of the teacher scores token j + 1, and the second of its ids is the one that is there.
    assert table["trainer_teacher_logp"][0].to_list() == [-30 / 128, -31 / 128, -2 / 128]
    assert table["trainer_teacher_logp"][1].to_list() == [-t / 128 for t in (32, 33, 34, 2)]
    assert table["trainer_top_id"].to_list() == [[130, 131, 102], [132, 133, 134, 102]]
    assert table["prompt_id"].to_list()[0] == "0b9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6a"
    assert table["reward"].to_list() == [1.0, 1.0]
    assert table["step"].to_list() == [5, 5]
    assert table["answer"].to_list() == ["7", "7"]
    assert table["group"].to_list() == ["adding", "adding"]
    assert read.report["several_spans"] == {"rollouts": 1, "most": 2}


@pytest.mark.parametrize("packed", ["by torch", "by NumPy"])
def test_verls_older_batch_is_read_without_its_padding(packed) -> None:
    if packed == "by torch":
        pytest.importorskip("tensordict")
    folder = REAL / "verl_proto" / ("5" if packed == "by torch" else "numpy")
    read = read_rollouts(folder, trust_pickle=True)
    check_batch(read)
    assert read.report["trust_pickle"]


def test_an_older_batch_that_is_no_batch_is_refused(tmp_path) -> None:
    for number, content in enumerate(({"a": 1}, b"x" * 9, ["samples"])):
        path = tmp_path / f"{number}.dp"
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        with pytest.raises(RolloutError, match=f"{number}.dp: ") as caught:
            read_rollouts(path, trust_pickle=True)
        assert "\n" not in str(caught.value)


def test_damaged_bytes_of_an_older_batch_give_a_table_or_one_error(tmp_path) -> None:
    whole = (REAL / "verl_proto" / "numpy" / "5" / "gen_batch.dp").read_bytes()
    path = tmp_path / "gen_batch.dp"
    rng = np.random.default_rng(0)
    for _ in range(60):
        at = int(rng.integers(len(whole)))
        path.write_bytes(whole[:at] + rng.bytes(2) + whole[at + 2 :])
        with contextlib.suppress(RolloutError):
            read_rollouts(path, trust_pickle=True)


@pytest.mark.parametrize(
    "path", [Path("verl_batch", "5", "0", "tq_batch.pt"), Path("verl_proto", "5", "gen_batch.dp")]
)
def test_a_batch_of_verl_needs_trust(path) -> None:
    path = REAL / path
    with pytest.raises(RolloutError, match="--trust-pickle") as caught:
        read_rollouts(path)
    assert "\n" not in str(caught.value)


def test_a_batch_whose_fields_differ_in_length_is_refused(make, tmp_path) -> None:
    path = make("verl-batch", tmp_path)
    content = torch.load(path)
    content["tensordict"]["prompts"] = content["tensordict"]["prompts"][:1]
    torch.save(content, path)
    with pytest.raises(RolloutError, match="tq_batch.pt: no batch of trajectories"):
        read_rollouts(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_ids": [[1]], "teacher_logprobs": [[0.0]]}, "teacher_ids and teacher_logprobs"),
        ({"responses": 3}, "responses is a number; expected a list of token ids"),
    ],
)
def test_bad_trajectories_are_refused(lines, tmp_path, change, message) -> None:
    row = {"prompts": [1], "responses": [2], "response_mask": [1], "key": "u_0_0"}
    with pytest.raises(RolloutError, match=message):
        read_rollouts(lines(tmp_path / "a.jsonl", [row | change]))


def test_a_token_that_the_teachers_ids_leave_out_is_unknown(lines, tmp_path) -> None:
    row = {"prompts": [1], "responses": [2, 3], "response_mask": [1, 1], "key": "u_0_0"}
    tops = {"teacher_ids": [[9, 2], [8, 7], [0, 0]]}
    tops["teacher_logprobs"] = [[-1.0, -0.5], [-2.0, -3.0], [0.0, 0.0]]
    alone = {"teacher_ids": [9, 3, 0], "teacher_logprobs": [-1.0, -0.25, 0.0]}
    none = {"teacher_ids": [9, 9, 0], "teacher_logprobs": [-1.0, -0.25, 0.0]}
    rows = [row | more | {"key": f"u_{n}_0"} for n, more in enumerate((tops, alone, none))]
    table = read_rollouts(lines(tmp_path / "a.jsonl", rows)).table
    assert table["trainer_teacher_logp"].to_list() == [[-0.5, None], [None, -0.25], None]
    assert table["trainer_top_id"].to_list() == [[2, 8], None, None]
    mass = table["trainer_top_mass"][0].to_list()
    assert mass == pytest.approx(np.exp([-1, -2]) + np.exp([-0.5, -3]), rel=1e-6)


# --- Traces ---------------------------------------------------------------------------------------


def test_every_branch_of_a_trace_is_a_rollout_and_tools_do_not_count() -> None:
    read = read_rollouts(TRACES)
    table = read.table
    assert read.report["format"] == "traces"
    assert table["rollout_id"].to_list() == ["trace-0", "trace-1:0", "trace-1:1"]
    assert table["prompt_token_ids"].to_list() == [[1, 20, 21, 3, 1, 4]] * 3
    assert table["response_token_ids"].to_list() == [
        [30, 31, 2],
        [40, 2, 50, 51, 1, 4, 41, 42, 2],
        [40, 2, 60, 1, 4, 43],
    ]
    assert table["loss_mask"][0] is None
    for number, mask in ((1, [1, 1, 0, 0, 0, 0, 1, 1, 1]), (2, [1, 1, 0, 0, 0, 1])):
        assert table["loss_mask"][number].to_list() == [bool(kept) for kept in mask]
        for logp, kept, token in zip(
            table["sampled_logp"][number],
            mask,
            table["response_token_ids"][number],
            strict=True,
        ):
            assert logp == pytest.approx(-token / 7 * kept, abs=5.1e-5)
        for logp, kept, token in zip(
            table["trainer_teacher_logp"][number],
            mask,
            table["response_token_ids"][number],
            strict=True,
        ):
            assert logp == pytest.approx(-token / 9 * kept, abs=5.1e-5)
    assert table["reward"].to_list() == [0.5, 0.0, 0.0]
    assert table["answer"].to_list() == ["7"] * 3
    assert table["group"].to_list() == ["adding"] * 3
    assert table["step"].to_list() == [7] * 3
    assert table["finish_reason"].to_list() == ["length", "stop", "stop"]
    assert read.report["several_spans"] == {"rollouts": 2, "most": 2}
    assert read.report["skipped"] == {
        "no token in the loss": 1,
        "trained on, and read from all/": 2,
    }


def test_what_training_left_out_is_known_where_the_step_tells(tmp_path) -> None:
    assert read_rollouts(TRACES).table["trained"].to_list() == [True, True, True]
    shutil.copytree(TRACES, tmp_path / "run")
    effective = tmp_path / "run" / STEP / "effective" / "traces.jsonl"
    rows = effective.read_text().splitlines(keepends=True)
    effective.write_text(rows[0])
    assert read_rollouts(tmp_path / "run").table["trained"].to_list() == [True, False, False]
    effective.unlink()
    assert read_rollouts(tmp_path / "run").table["trained"].to_list() == [None] * 3
    effective.write_text("".join(rows))
    (tmp_path / "run" / STEP / "all" / "traces.jsonl").unlink()
    assert read_rollouts(tmp_path / "run").table["trained"].to_list() == [True] * 3


def test_a_stream_of_single_traces_is_read_too(lines, tmp_path) -> None:
    text = (TRACES / STEP / "all" / "traces.jsonl").read_text()
    single = [trace for line in text.splitlines() for trace in json.loads(line)["traces"]]
    path = lines(tmp_path / "monitors" / "file" / "traces" / "stream" / "00000.jsonl", single)
    read, whole = read_rollouts(path).table, read_rollouts(TRACES).table
    same = ["prompt_token_ids", "response_token_ids", "loss_mask", "sampled_logp", "reward"]
    assert read.select(same).equals(whole.select(same))
    assert read["trained"].to_list() == [None] * 3


def test_annotations_beside_a_stream_tell_the_step_and_what_was_trained_on(lines, tmp_path) -> None:
    text = (TRACES / STEP / "all" / "traces.jsonl").read_text()
    single = [trace for line in text.splitlines() for trace in json.loads(line)["traces"]]
    folder = tmp_path / "monitors" / "file" / "traces"
    stream = lines(folder / "stream" / "00000.jsonl", single)
    notes = [
        {"trace_id": "trace-0", "step": 9, "subset": "all"},
        {"trace_id": "trace-0", "subset": "effective"},
        {"id": "trace-1", "trained": False},
    ]
    packed = gzip.compress("".join(json.dumps(note) + "\n" for note in notes).encode())
    (folder / "annotations").mkdir()
    (folder / "annotations" / "00000.jsonl.gz").write_bytes(packed)
    table = read_rollouts(stream).table
    assert table["step"].to_list() == [9, None, None]
    assert table["trained"].to_list() == [True, False, False]
    read = read_rollouts(folder)  # the annotations are no dump
    assert read.table.height == 3
    assert list(read.report["left_out"]) == [str(folder / "annotations" / "00000.jsonl.gz")]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{"parent": 0}], "node 0 has no parent before it"),
        ([{"parent": 5}], "node 0 has no parent before it"),
        ([1], "node 0 has no parent before it"),
        ([{"token_ids": [1], "mask": []}, {"token_ids": [1, 2], "mask": [True]}], "differ"),
        ([{"token_ids": [1, 2], "mask": [False, True], "logprobs": [0.0, 0.0]}], "expected 1, one"),
        ("x", "nodes is text"),
    ],
)
def test_a_broken_graph_is_refused(lines, tmp_path, nodes, message) -> None:
    row = {"id": "e", "task": {}, "traces": [{"id": "t", "nodes": nodes}]}
    with pytest.raises(RolloutError, match=message):
        read_rollouts(lines(tmp_path / "a.jsonl", [row]))


@pytest.mark.parametrize("spans", [1, 2, 20])
def test_any_number_of_spans_is_counted(lines, tmp_path, spans) -> None:
    nodes = [{"token_ids": [1, 2], "mask": [False, False]}]
    for turn in range(spans):
        nodes.append({"parent": 2 * turn, "token_ids": [3, 4], "mask": [True, True]})
        nodes.append({"parent": 2 * turn + 1, "token_ids": [5], "mask": [False]})
    row = {"id": "e", "task": {}, "traces": [{"id": "t", "nodes": nodes}]}
    read = read_rollouts(lines(tmp_path / "a.jsonl", [row]))
    assert read.report["several_spans"] == {"rollouts": int(spans > 1), "most": spans}
    assert read.report["loss_tokens"] == 2 * spans
    assert read.table["response_token_ids"].list.len().to_list() == [3 * spans - 1]
