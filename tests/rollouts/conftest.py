"""Dumps of every format, in the nesting that their programs write."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch

PROMPT, RESPONSE = [1, 20, 21], [30, 31, 2]
LOGP = [-0.5, -0.25, -1.0]


def write_lines(path: Path, rows: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def lines():
    """The function that writes rows as JSON lines."""
    return write_lines


def slime_sample(**changes: object) -> dict[str, object]:
    return {
        "group_index": 0,
        "index": 0,
        "prompt": "Add 3 and 4.",
        "tokens": PROMPT + RESPONSE,
        "multimodal_inputs": None,
        "response": "7",
        "response_length": 3,
        "label": "7",
        "reward": 1.0,
        "loss_mask": None,
        "weight_versions": ["3"],
        "rollout_log_probs": LOGP,
        "remove_sample": False,
        "teacher_log_probs": [-0.1, -0.2, -0.3],
        "status": "completed",
        "metadata": {},
        "spec_info": {"spec_accept_token_num": 0},
        **changes,
    }


def make_slime(folder: Path) -> Path:
    samples = [
        slime_sample(),
        slime_sample(index=1, loss_mask=[1, 0, 1], status="truncated", reward={"a": 1.0}),
        slime_sample(index=2, tokens=[], response_length=0, status="aborted"),
        slime_sample(index=3, remove_sample=True),
    ]
    path = folder / "rollout_7.pt"
    torch.save({"rollout_id": 7, "samples": samples}, path)
    return path


def make_prime_rl(folder: Path) -> Path:
    def row(**changes: object) -> dict[str, object]:
        return {
            "schema_version": 1,
            "step": 7,
            "export_step": 7,
            "rank": 0,
            "micro_step": 0,
            "micro_sequence_idx": 0,
            "export_sequence_idx": 0,
            "run_id": None,
            "env_name": "math",
            "token_ids": PROMPT + RESPONSE,
            "position_ids": list(range(6)),
            "loss_mask": [False] * 3 + [True] * 3,
            "advantages": [0.0] * 3 + [0.5] * 3,
            "rewards": [None] * 3 + [1.0] * 3,
            "inference_logprobs": [0.0] * 3 + LOGP,
            "trainer_logprobs": [0.0] * 3 + LOGP,
            "entropy": [0.1] * 6,
            **changes,
        }

    rows = [
        row(),
        row(loss_mask=[False] * 3 + [True, False, True], rewards=[None] * 6),
        row(inference_logprobs=[0.0] * 3 + [-0.5, None, -1.0]),
        row(loss_mask=[False] * 6),
    ]
    write_lines(folder / "token_exports" / "step_7" / "rank_0.jsonl", rows)
    (folder / "token_exports" / "step_7" / "STABLE").touch()
    write_lines(folder / "token_exports" / "step_8" / "rank_0.jsonl", [row(step=8)])
    return folder / "token_exports"


def make_nemo_rl(folder: Path) -> Path:
    row = {
        "token_ids": [PROMPT + RESPONSE + [0, 0]],
        "token_loss_mask": [[0, 0, 0, 1, 1, 1, 0, 0]],
        "sample_loss_mask": [1.0],
        "input_lengths": [6],
        "rewards": [1.0],
        "advantages": [[0.0] * 3 + [0.5] * 5],
        "generation_logprobs": [[0.0] * 3 + LOGP + [0.0] * 2],
        "prev_logprobs": [[0.0] * 3 + LOGP + [0.0] * 2],
        "idx": 0,
    }
    turns = row | {"token_loss_mask": [[0, 0, 0, 1, 0, 1, 0, 0]], "idx": 1}
    return write_lines(folder / "exp_001" / "train_data_step7.jsonl", [row, turns])


def make_vllm(folder: Path) -> Path:
    def output(index: int, finish_reason: str) -> dict[str, object]:
        places = [
            {
                str(token): {"logprob": logp, "rank": 1, "decoded_token": "x"},
                "99": {"logprob": -9.0, "rank": 2, "decoded_token": "y"},
            }
            for token, logp in zip(RESPONSE, LOGP, strict=True)
        ]
        return {
            "index": index,
            "text": "7",
            "token_ids": RESPONSE,
            "cumulative_logprob": sum(LOGP),
            "logprobs": places,
            "finish_reason": finish_reason,
            "stop_reason": None,
        }

    request = {
        "request_id": "0",
        "prompt": "Add 3 and 4.",
        "prompt_token_ids": PROMPT,
        "prompt_logprobs": None,
        "outputs": [output(0, "stop"), output(1, "length")],
        "finished": True,
    }
    path = folder / "outputs.json"
    path.write_text(json.dumps([request, request | {"request_id": "1"}]))
    return path


def make_ta_opd(folder: Path) -> Path:
    row = {
        "id": "a",
        "prompt_token_ids": json.dumps(PROMPT),
        "response_token_ids": json.dumps(RESPONSE),
        "sampled_logp": json.dumps(LOGP),
        "reward": "1.0",
        "correct": "True",
        "step": "7",
    }
    path = folder / "bank.csv"
    pl.DataFrame([row, row | {"id": "b", "reward": None}]).write_csv(path)
    return path


def make_verl(folder: Path) -> Path:
    row = {
        "input": "user\nAdd 3 and 4.\nassistant\n",
        "output": "So 7.",
        "gts": "7",
        "score": 1.0,
        "step": 7,
        "acc": True,
        "request_id": "f00",
    }
    return write_lines(folder / "7.jsonl", [row, row | {"input": "Add 3 and 4."}])


def make_trl(folder: Path) -> Path:
    path = folder / "completions" / "completions_00007.parquet"
    path.parent.mkdir()
    pl.DataFrame(
        {
            "step": [7, 7],
            "prompt": [[{"role": "user", "content": "Add 3 and 4."}]] * 2,
            "completion": [[{"role": "assistant", "content": "So 7."}]] * 2,
            "accuracy_reward": [1.0, float("nan")],
            "advantage": [0.5, -0.5],
        }
    ).write_parquet(path)
    return path


def make_ms_swift(folder: Path) -> Path:
    batch = {
        "step": ["7", "7"],
        "prompt": ["<|start|>user\nAdd 3 and 4.<|end|>\n<|start|>assistant\n"] * 2,
        "completion": ["So 7.<|end|>", "So"],
        "Accuracy": [1.0, 0.0],
        "advantages": [0.5, -0.5],
    }
    return write_lines(folder / "completions.jsonl", [batch])


def make_kdflow(folder: Path) -> Path:
    prompt = "<|start|>user\nAdd 3 and 4.<|end|>\n<|start|>assistant\n"
    rows = [
        {"prompt": prompt, "output": "So 7.", "reward_result": 1.0, "label": "7"},
        {"prompt": prompt, "output": ""},
    ]
    return write_lines(folder / "rollout_data" / "7.jsonl", rows)


def make_lm_eval(folder: Path) -> Path:
    row = {
        "doc_id": 0,
        "doc": {"question": "Add 3 and 4."},
        "target": "7",
        "arguments": {"gen_args_0": {"arg_0": "Add 3 and 4.", "arg_1": {"until": ["\n\n"]}}},
        "resps": [["So 7."]],
        "filtered_resps": ["7"],
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "exact_match": 1.0,
        "doc_hash": "d",
        "prompt_hash": "p",
        "target_hash": "t",
    }
    rows = [row, row | {"filter": "flexible-extract", "exact_match": 0.0}]
    repeats = {"doc_id": 1, "resps": [["So", "7."]]}
    rows.append(row | repeats)
    return write_lines(folder / "samples_gsm8k_2026-01-01.jsonl", rows)


def make_areal(folder: Path) -> Path:
    row = {
        "task_id": 1,
        "sample_idx": 0,
        "seqlen": 0,
        "prompt_len": 0,
        "head_version": 6,
        "tail_version": 7,
        "version_rle": [[7, 3]],
        "reward": 1.0,
        "prompt": "<|start|>user\nAdd 3 and 4.<|end|>\n<|start|>assistant\n",
        "completion": "So 7.<|end|>",
    }
    rows = [row, row | {"sample_idx": 1, "segments": [{"role": "tool"}]}]
    return write_lines(folder / "7" / "1.jsonl", rows)


def make_labels(folder: Path) -> Path:
    outside = [-100] * 3
    row = {"input_ids": PROMPT + RESPONSE, "labels": outside + RESPONSE, "step": 7}
    padded = {key: [0, *row[key]] for key in ("input_ids", "labels")} | {"labels": [-100, *outside]}
    padded["labels"] += RESPONSE
    return write_lines(
        folder / "7" / "examples.jsonl",
        [row, row | padded | {"attention_mask": [0, 1, 1, 1, 1, 1, 1]}],
    )


def make_messages(folder: Path) -> Path:
    turns = [
        {"role": "user", "content": "Add 3 and 4."},
        {"role": "assistant", "content": "So 7."},
        {"role": "user", "content": "And 5?"},
        {"role": "assistant", "content": "So 12."},
    ]
    rows = [{"messages": turns[:2], "step": 7}, {"messages": turns, "step": 7, "id": "b"}]
    return write_lines(folder / "7" / "log.jsonl", rows)


def make_verl_batch(folder: Path) -> Path:
    """The batch that `real/make_verl_batch.py` makes, in a plain dict of equal lengths."""
    both = {"prompts": PROMPT, "responses": RESPONSE, "response_mask": [1, 1, 1]}
    both |= {"rollout_log_probs": LOGP, "rm_scores": [0.0, 0.0, 1.0]}
    fields: dict[str, object] = {key: torch.tensor([row, row]) for key, row in both.items()}
    fields |= {"data_source": ["adding"] * 2, "reward_model": [{"ground_truth": 7}] * 2}
    path = folder / "7" / "0" / "tq_batch.pt"
    path.parent.mkdir(parents=True)
    uid = "0b9f6f0e-6a7e-4a52-9a0c-1f2e3d4c5b6a"
    content = {"tensordict": fields, "keys": [f"{uid}_0_0", f"{uid}_1_0"], "global_steps": 7}
    torch.save(content | {"tags": [{}, {}]}, path)
    return path


def make_traces(folder: Path) -> Path:
    nodes = [
        {"message": {"role": "user"}, "token_ids": PROMPT, "mask": [False] * 3},
        {
            "parent": 0,
            "message": {"role": "assistant"},
            "token_ids": RESPONSE,
            "mask": [True] * 3,
            "logprobs": LOGP,
        },
    ]
    row = {
        "id": "episode",
        "env": {"id": "adding"},
        "task": {"type": "Adding", "data": {"answer": "7"}, "key": "task"},
        "traces": [
            {
                "id": "trace",
                "nodes": nodes,
                "calls": [{"node": 1, "finish_reason": "stop"}],
                "rewards": {"right": {"score": 1.0, "weight": 1.0}},
            }
        ],
    }
    return write_lines(folder / "rollouts" / "step_7" / "train" / "all" / "traces.jsonl", [row])


@pytest.fixture(
    params=[
        *("slime", "prime-rl", "nemo-rl", "vllm", "ta-opd", "verl"),
        *("trl", "ms-swift", "kdflow", "lm-eval", "areal", "labels", "messages"),
        *("verl-batch", "traces"),
    ]
)
def dump(request, tmp_path) -> tuple[str, Path]:
    """Name and path of a dump, one format after the other."""
    return request.param, make_dump(request.param, tmp_path)


def make_dump(name: str, folder: Path) -> Path:
    return globals()["make_" + name.replace("-", "_")](folder)


@pytest.fixture
def make():
    """The function that writes the dump of a format into a folder."""
    return make_dump
