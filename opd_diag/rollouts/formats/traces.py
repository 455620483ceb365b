"""Episodes of verifiers, as prime-rl writes them: `rollouts/step_N/train/all/traces.jsonl`.

A line is an episode with the traces of its agents, or one trace. A trace is a graph of messages,
each with the tokens that it adds; every way from a root to a leaf is a sequence that was trained
on. Floats are rounded to four decimals.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opd_diag.rollouts.rows import DumpFile, Row, RowError, need

USED = (
    *("id", "env", "task", "group", "traces"),
    *("agent", "nodes", "calls", "rewards", "errors", "ok"),
)
_ANSWERS = ("answer", "reference", "ground_truth", "solution", "target")
_ALL, _EFFECTIVE = "all", "effective"


def fits(row: Row) -> bool:
    """Tell whether a row is an episode or a trace."""
    if isinstance(row.get("traces"), list):
        return "env" in row or "task" in row
    return isinstance(row.get("nodes"), list) and "task" in row


def rollouts(row: Row, file: DumpFile) -> Iterator[dict[str, Any]]:
    """Yield the sequences of an episode that a model wrote tokens of.

    Where a step has both, `all` is read and `effective`, which repeats what was trained on, is only
    looked up.
    """
    subset = file.path.parent
    if subset.name == _EFFECTIVE and _traces(subset.parent / _ALL) is not None:
        file.skipped["trained on, and read from all/"] += 1
        return
    effective = _effective(file) if subset.name == _ALL else None
    traces = need(row, "traces", list, "a list of traces") if "traces" in row else [row]
    step = file.number_in_name(r"step_?(\d+)/")
    for trace in traces:
        if not isinstance(trace, dict):
            raise RowError("traces holds something else; expected objects with nodes")
        told = _told(trace, row) | {"step": step}
        trained = None if effective is None else str(trace.get("id")) in effective
        if subset.name == _EFFECTIVE:
            trained = True
        paths = list(_paths(need(trace, "nodes", list, "a list of messages")))
        for number, path in enumerate(paths):
            sequence = _sequence(path)
            if sequence is None:
                file.skipped["no token in the loss"] += 1
                continue
            part = f":{number}" if len(paths) > 1 else ""
            yield (
                told
                | sequence
                | {
                    "id": f"{trace.get('id')}{part}" if trace.get("id") is not None else None,
                    "finish_reason": _finish(trace, path),
                    "trained": trained,
                }
            )


def _told(trace: Row, episode: Row) -> dict[str, Any]:
    """Collect what a trace says of its task: prompt id, environment, answer, reward."""
    task = trace.get("task") or episode.get("task")
    task = task if isinstance(task, dict) else {}
    data = task.get("data")
    data = data if isinstance(data, dict) else {}
    env = episode.get("env")
    rewards = trace.get("rewards")
    values = list(rewards.values()) if isinstance(rewards, dict) else []
    scored = [
        value["score"] * value.get("weight", 1.0)
        for value in values
        if isinstance(value, dict)
        and isinstance(value.get("score"), int | float)
        and isinstance(value.get("weight", 1.0), int | float)
    ]
    return {
        "prompt_id": task.get("key") or task.get("hash"),
        "group": (env.get("name") or env.get("id")) if isinstance(env, dict) else None,
        "answer": next((data[key] for key in _ANSWERS if data.get(key) is not None), None),
        "reward": sum(scored) if scored else None,
    }


def _paths(nodes: list[Any]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    """Yield the ways from a root to each leaf, as numbers and nodes."""
    parents: set[int] = set()
    for number, node in enumerate(nodes):
        parent = node.get("parent") if isinstance(node, dict) else -1
        if parent is None:
            continue
        if not isinstance(parent, int) or not 0 <= parent < number:
            raise RowError(f"node {number} has no parent before it; expected its number, or null")
        parents.add(parent)
    for leaf in range(len(nodes)):
        if leaf in parents:
            continue
        path = []
        at: Any = leaf
        while at is not None:
            path.append((at, nodes[at]))
            at = nodes[at].get("parent")
        yield path[::-1]


def _sequence(path: list[tuple[int, dict[str, Any]]]) -> dict[str, Any] | None:
    """Put the tokens of a path together, from the first that the model wrote to the last."""
    tokens: list[Any] = []
    mask: list[Any] = []
    logps: list[Any] = []
    complete = True
    for number, node in path:
        own = node.get("token_ids") or []
        flags = node.get("mask") or [False] * len(own)
        if not isinstance(own, list) or not isinstance(flags, list) or len(own) != len(flags):
            raise RowError(f"token_ids and mask of node {number} differ; expected equal lengths")
        told = node.get("logprobs") or []
        wanted = sum(map(bool, flags))
        if not isinstance(told, list) or (told and len(told) != wanted):
            raise RowError(
                f"logprobs of node {number}; expected {wanted}, one for each in its mask"
            )
        complete = complete and (not wanted or bool(told))
        following = iter(told)
        tokens += own
        mask += map(bool, flags)
        logps += [next(following, 0.0) if flag else 0.0 for flag in flags]
    if not any(mask):
        return None
    start, stop = mask.index(True), len(mask) - mask[::-1].index(True)
    inside = mask[start:stop]
    return {
        "prompt_token_ids": tokens[:start],
        "response_token_ids": tokens[start:stop],
        "loss_mask": None if all(inside) else inside,
        "sampled_logp": logps[start:stop] if complete else None,
    }


def _finish(trace: Row, path: list[tuple[int, dict[str, Any]]]) -> Any:
    """Return why the last answer of a path ended."""
    calls = trace.get("calls")
    numbers = [number for number, _ in path]
    own = [
        call.get("finish_reason")
        for call in (calls if isinstance(calls, list) else [])
        if isinstance(call, dict) and call.get("node") in numbers
    ]
    return own[-1] if own else None


def _effective(file: DumpFile) -> set[object] | None:
    """Read the ids of the traces that the step was trained on, once a file; None if unknown."""
    path = _traces(file.path.parent.parent / _EFFECTIVE)
    if path is None:
        return None
    if not file.seen:
        file.seen.add(None)  # so that a file without ids is not read again
        for line in path.read_bytes().splitlines():
            file.seen |= _trace_ids(line)
    return file.seen


def _trace_ids(line: bytes) -> set[str]:
    try:
        episode = json.loads(line)
        return {str(trace["id"]) for trace in episode.get("traces", [episode])}
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()


def _traces(folder: Path) -> Path | None:
    path = folder / "traces.jsonl"
    return path if path.is_file() else None
