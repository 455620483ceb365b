"""Make `traces` with the classes of verifiers, laid out as prime-rl's file monitor does it.

Needs an environment of its own, with verifiers==0.4.0 (orjson comes with it):

    python make_traces.py OUT

Three episodes of one step: one of one turn, one of two turns with a tool between them and a second
branch from the first answer, and one that failed before any token was written. Training took the
first two of them, which `effective` repeats.
"""

import argparse
from pathlib import Path
from typing import Any

import orjson
import verifiers.v1 as vf
from verifiers.v1.configs.agent import WireAgentConfig
from verifiers.v1.episode import EnvInfo, Episode, GroupInfo
from verifiers.v1.graph import MessageNode
from verifiers.v1.task import WireTaskData
from verifiers.v1.trace import AgentInfo, ModelCall, Reward, Trace, TraceTask


def node(role: str, text: str, parent: int | None, given: list[int], own: list[int]) -> Any:
    """A message: the tokens given to the model, then those that it wrote."""
    message: dict[str, Any] = {"role": role, "content": text}
    if role == "tool":
        message["tool_call_id"] = "call"
    return MessageNode(
        parent=parent,
        message=message,
        sampled=bool(own),
        token_ids=given + own,
        mask=[False] * len(given) + [True] * len(own),
        logprobs=[-token / 7 for token in own],
        reference_logprobs=[-token / 9 for token in own] if own else None,
    )


def episode(number: int, nodes: list[Any], *, score: float | None) -> Any:
    task = TraceTask(
        type="Adding",
        data=WireTaskData(idx=number, prompt="Add 3 and 4.", answer="7"),
        key=f"task-{number}",
    )
    calls = [
        ModelCall(node=place, finish_reason="stop" if place > 1 else "length")
        for place, one in enumerate(nodes)
        if one.sampled
    ]
    trace = Trace(
        id=f"trace-{number}",
        task=task,
        agent=AgentInfo(config=WireAgentConfig()),
        nodes=nodes,
        calls=calls,
        rewards={} if score is None else {"right": Reward(score=score, weight=0.5)},
        ok=score is not None,
        is_completed=True,
    )
    return Episode(
        id=f"episode-{number}",
        env=EnvInfo(id="adding-env", name="adding"),
        task=task,
        group=GroupInfo(id=f"group-{number}"),
        ok=score is not None,
        traces=[trace],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    ask = node("user", "Add 3 and 4.", None, [1, 20, 21, 3], [])
    episodes = [
        episode(0, [ask, node("assistant", "7", 0, [1, 4], [30, 31, 2])], score=1.0),
        episode(
            1,
            [
                ask,
                node("assistant", "a tool", 0, [1, 4], [40, 2]),
                node("tool", "7", 1, [50, 51], []),
                node("assistant", "So 7.", 2, [1, 4], [41, 42, 2]),
                node("user", "Again.", 1, [60], []),
                node("assistant", "Well", 4, [1, 4], [43]),
            ],
            score=0.0,
        ),
        episode(2, [ask], score=None),
    ]
    for subset, chosen in (("all", episodes), ("effective", episodes[:2])):
        path = options.out / "rollouts" / "step_7" / "train" / subset / "traces.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
        records = (orjson.dumps(one.to_record(), default=str, option=flags) for one in chosen)
        path.write_bytes(b"".join(records))
    print(vf.__name__, "wrote", options.out)


if __name__ == "__main__":
    main()
