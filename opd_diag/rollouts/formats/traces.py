"""Episodes of verifiers, as prime-rl writes them: `rollouts/step_N/train/all/traces.jsonl`.

A line is an episode with the traces of its agents, or one trace. A trace is a graph of messages,
each with the tokens that it adds; every way from a root to a leaf is a sequence that was trained
on. Floats are rounded to four decimals. Beside a stream of traces, `annotations` may tell the step
of each and whether it was trained on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opd_diag.rollouts.files import kind_of_file, read_rows
from opd_diag.rollouts.rows import (
    COMPRESSED,
    REFERENCES,
    DumpFile,
    Row,
    RowError,
    first_known,
    need,
)

USED = (
    *("id", "env", "task", "group", "traces"),
    *("agent", "nodes", "calls", "rewards", "errors", "ok"),
)
_ALL, _EFFECTIVE = "all", "effective"
_STREAM, _ANNOTATIONS = "stream", "annotations"


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
    annotations = _annotations(file) if subset.name == _STREAM else {}
    traces = need(row, "traces", list, "a list of traces") if "traces" in row else [row]
    step = file.number_in_name(r"step_?(\d+)/")
    for trace in traces:
        if not isinstance(trace, dict):
            raise RowError("traces holds something else; expected objects with nodes")
        told = _told(trace, row) | {"step": step}
        trained = None if effective is None else str(trace.get("id")) in effective
        if subset.name == _EFFECTIVE:
            trained = True
        for note in annotations.get(str(trace.get("id")), ()):
            told["step"] = note.get("step", told["step"])
            trained = _trained(note, trained)
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
        "answer": first_known(data, REFERENCES),
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
    mask: list[bool] = []
    spread: dict[str, list[Any] | None] = {"logprobs": [], "reference_logprobs": []}
    for number, node in path:
        own = node.get("token_ids") or []
        flags = node.get("mask") or [False] * len(own)
        if not isinstance(own, list) or not isinstance(flags, list) or len(own) != len(flags):
            raise RowError(f"token_ids and mask of node {number} differ; expected equal lengths")
        for name, values in spread.items():
            told = _told_values(node, number, name, sum(map(bool, flags)))
            if values is None or told is None:
                spread[name] = None  # what some of the tokens lack is not known of the sequence
                continue
            following = iter(told)
            values += [next(following) if flag else 0.0 for flag in flags]
        tokens += own
        mask += map(bool, flags)
    if not any(mask):
        return None
    start, stop = mask.index(True), len(mask) - mask[::-1].index(True)
    inside = mask[start:stop]
    sampled, teacher = (values and values[start:stop] for values in spread.values())
    return {
        "prompt_token_ids": tokens[:start],
        "response_token_ids": tokens[start:stop],
        "loss_mask": None if all(inside) else inside,
        "sampled_logp": sampled,
        "trainer_teacher_logp": teacher,
    }


def _told_values(node: Row, number: int, name: str, wanted: int) -> list[Any] | None:
    """Return the values of a node, one for each token in its mask; None where it has none."""
    told = node.get(name) or []
    if not isinstance(told, list) or (told and len(told) != wanted):
        raise RowError(f"{name} of node {number}; expected {wanted}, one for each in its mask")
    return told if told or not wanted else None


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
        for _, episode in read_rows(path):
            file.seen |= _trace_ids(episode)
    return file.seen


def _trace_ids(episode: Any) -> set[str]:
    try:
        return {str(trace["id"]) for trace in episode.get("traces", [episode])}
    except (TypeError, KeyError, AttributeError):
        return set()


def _traces(folder: Path) -> Path | None:
    paths = (folder / f"traces.jsonl{ending}" for ending in ("", *COMPRESSED))
    return next((path for path in paths if path.is_file()), None)


def _annotations(file: DumpFile) -> dict[str, list[Row]]:
    """Read what the files beside a stream say of its traces, once a file, by the trace's id."""
    if file.beside is None:
        file.beside = {}
        folders = (parent / _ANNOTATIONS for parent in (file.path.parent, file.path.parent.parent))
        paths = (path for folder in folders for path in folder.rglob("*") if _is_lines(path))
        for path in sorted(paths):
            for _, note in read_rows(path):
                if isinstance(note, dict) and note.get("trace_id", note.get("id")) is not None:
                    name = str(note.get("trace_id", note.get("id")))
                    file.beside.setdefault(name, []).append(note)
    return file.beside


def _is_lines(path: Path) -> bool:
    return kind_of_file(path) == ".jsonl" and path.is_file()


def _trained(note: Row, before: bool | None) -> bool | None:
    """Tell from an annotation whether a trace was trained on, as before where it does not say."""
    for key in ("trained", _EFFECTIVE):
        if isinstance(note.get(key), bool):
            return bool(note[key])
    subset = note.get("subset")
    if subset == _EFFECTIVE:
        return True
    return bool(before) if subset == _ALL else before
