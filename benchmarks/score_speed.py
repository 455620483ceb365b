"""Speed of `score` against its limit and against two usual ways to write it.

bare    both models' bodies on the batches of `score` and both output heads, nothing else
score   all columns, gradient sums and files
fused   the same with the Triton kernel (needs a GPU)
plain   padded batches, full logits, log_softmax and topk: 8 numbers a token
script  one rollout at a time, a Python loop over its tokens: 8 numbers a token

All in one process, in turn, on the same rollouts of random ids. Every way is compared with the bare
work of its own round: the median of these ratios counts, with the smallest and the largest. A
row with device, versions, shapes and date goes to benchmarks/results/score_speed.md. `--cpu-time`
with one thread counts the process's own time, for a machine that has other work.
"""

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from opd_diag.scoring.columns.buffers import Buffers
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.columns.rows import Rows, head_logits
from opd_diag.scoring.models.forward import LanguageModel, response_states
from opd_diag.scoring.models.loading import (
    Loading,
    default_device,
    default_dtype,
    find_head,
    load_model,
)
from opd_diag.scoring.parts.batches import chunk_rows, default_batch_tokens, plan_batches
from opd_diag.scoring.parts.jobs import Job
from opd_diag.scoring.parts.score_part import PartPlan, score_and_write_part
from opd_diag.scoring.progress import StderrProgress
from opd_diag.scoring.sequences import Inputs, plan_parts, sequences
from opd_diag.tables.columns.rollouts import ROLLOUTS, VOCAB
from opd_diag.tables.columns.tokens import K_GRID
from opd_diag.tables.schema import polars_schema
from opd_diag.text.segments import segment_responses

RESULTS = Path(__file__).parent / "results" / "score_speed.md"
# hidden, inner, layers, heads, key-value heads, tied: the shapes of Qwen3
SHAPES = {
    "0.6B": (1024, 3072, 28, 16, 8, True),
    "1.7B": (2048, 6144, 28, 16, 8, True),
    "4B": (2560, 9728, 36, 32, 8, True),
    "8B": (4096, 12288, 36, 32, 8, False),
    "tiny": (32, 64, 2, 2, 1, True),
}
WIDTH, IDS = 151_936, 151_669
TINY_WIDTH = 320  # of `tiny`, on which a dry run tries everything


def load(name: str, device: str, dtype: str) -> LanguageModel:
    """Load a model from a folder, or build one at random with a shape of Qwen3."""
    if name not in SHAPES:
        return load_model(name, Loading(device=device, dtype=dtype))
    hidden, inner, layers, heads, groups, tied = SHAPES[name]
    config = Qwen3Config(
        vocab_size=TINY_WIDTH if name == "tiny" else WIDTH,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=128,
        tie_word_embeddings=tied,
        max_position_embeddings=40_960,
        dtype=dtype,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = Qwen3ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return LanguageModel(name, model, model.get_decoder(), find_head(name, model, device))


def make_inputs(ids: int, rollouts: int, prompt: int, response: int, seed: int) -> Inputs:
    """Make rollouts of random ids, their lengths within a fifth of `response`."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(int(0.8 * response), response + 1, rollouts)
    n = range(rollouts)
    base = {
        "rollout": n,
        "rollout_id": [f"r{i}" for i in n],
        "prompt_id": [f"p{i}" for i in n],
        "half": [i % 2 for i in n],
        "sample": [0] * rollouts,
        "prompt_token_ids": [rng.integers(0, ids, prompt).tolist() for _ in n],
        "response_token_ids": [rng.integers(0, ids, length).tolist() for length in lengths],
        "token_exact": [True] * rollouts,
        "source": ["random"] * rollouts,
        "source_row": range(1, rollouts + 1),
    }
    schema = polars_schema(ROLLOUTS)
    absent = {name: [None] * rollouts for name in schema if name not in base}
    table = pl.DataFrame(base | absent, schema=schema)
    vocab = pl.DataFrame(
        {
            "token_id": range(ids),
            "text": [f" {i}." for i in range(ids)],
            "bytes": [f" {i}.".encode() for i in range(ids)],
            "is_special": [False] * ids,
        },
        schema=polars_schema(VOCAB),
    )
    return Inputs(table, sequences(table), vocab, {"student": ids})


def bare(job: Job, batches: list[np.ndarray]) -> None:
    """Run both bodies and both heads."""
    prompts, teacher_prompts, responses = job.sequences
    (student,) = job.students.values()
    heads = job.teacher.head.cut(0, job.ids), student.head.cut(0, job.ids)
    buffers = Buffers()
    for batch in batches:
        numbers = [int(i) for i in batch]
        states = (
            response_states(job.teacher, teacher_prompts, responses, numbers),
            response_states(student, prompts, responses, numbers),
        )
        for start in range(0, len(states[0]), job.chunk_rows):
            for head, own in zip(heads, states, strict=True):
                rows = Rows(head, own[start : start + job.chunk_rows])
                head_logits(rows, buffers, "logits")


def plain(job: Job, batches: list[np.ndarray]) -> None:
    """Score as is usual: full logits of a padded batch."""
    prompts, _, responses = job.sequences
    (student,) = job.students.values()
    for batch in batches:
        rows = [np.concatenate((prompts[i], responses[i])) for i in batch]
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for n, row in enumerate(rows):
            ids[n, : len(row)] = torch.from_numpy(row.astype(np.int64))
            mask[n, : len(row)] = 1
        device = student.model.device
        ids, mask = ids.to(device), mask.to(device)
        log_p, log_q = (
            model.model(ids, attention_mask=mask, use_cache=False)
            .logits[:, :-1, : job.ids]
            .float()
            .log_softmax(-1)
            for model in (student, job.teacher)
        )
        _eight(log_p, log_q, ids[:, 1:])


def script(job: Job, rollouts: int) -> None:
    """Score as a script does: one rollout at a time, token by token."""
    prompts, _, responses = job.sequences
    (student,) = job.students.values()
    for i in range(rollouts):
        row = np.concatenate((prompts[i], responses[i])).astype(np.int64)
        ids = torch.from_numpy(row)[None].to(student.model.device)
        logits = [model.model(ids, use_cache=False).logits[0] for model in (student, job.teacher)]
        for t in range(len(prompts[i]) - 1, len(row) - 1):
            log_p, log_q = (own[t, : job.ids].float().log_softmax(-1) for own in logits)
            for value in _eight(log_p[None, None], log_q[None, None], ids[:, t + 1 : t + 2]):
                value.tolist()


def _eight(log_p: torch.Tensor, log_q: torch.Tensor, ids: torch.Tensor) -> list[torch.Tensor]:
    p, q = log_p.exp(), log_q.exp()
    top = log_p.topk(64).indices
    return [
        log_p.gather(-1, ids[..., None]),
        log_q.gather(-1, ids[..., None]),
        (p * (log_p - log_q)).sum(-1),
        (q * (log_q - log_p)).sum(-1),
        -(p * log_p).sum(-1),
        -(q * log_q).sum(-1),
        q.gather(-1, top).sum(-1),
        (top == log_q.topk(64).indices).sum(-1),
    ]


def timed(work: Callable[[], object], device: str, clock: Callable[[], float]) -> float:
    """Return the seconds that some work takes."""
    begin = clock()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - begin


def matrix_rate(size: int = 8192, device: str = "cuda") -> float:
    """Measure the rate of a bfloat16 product on a device, FLOP/s: the median of ten."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    seconds = [timed(lambda: a @ b, device, time.perf_counter) for _ in range(13)]
    return 2 * size**3 / median(seconds[3:])


def flops(models: Sequence[LanguageModel], job: Job) -> float:
    """Return the work of the weights alone for one response token, prompts counted."""
    read = job.sequences
    share = float(read.lengths.sum() / read.responses.lengths.sum())
    total = 0.0
    for model in models:
        embedding = model.model.get_input_embeddings().weight.numel()
        body = sum(weight.numel() for weight in model.body.parameters()) - embedding
        total += 2 * (share * body + model.head.weight.numel())
    return total


class Speed(NamedTuple):
    """How fast one way is.

    Attributes:
        way: Its name.
        tokens: Response tokens, as count x length.
        rounds: How often it was timed.
        rate: Response tokens per second, the median over rounds; 0 if memory ran out.
        of_bare: Ratio to the bare work of its own round, the median.
        low: The smallest of these ratios.
        high: The largest.
        gib: Peak memory: on a GPU beside the weights, on the CPU of the whole process so far.
        mfu: Model FLOP utilisation, weights only, against a measured product; None on the CPU.
    """

    way: str
    tokens: str
    rounds: int
    rate: float
    of_bare: float
    low: float
    high: float
    gib: float
    mfu: float | None


def measure(
    models: Sequence[LanguageModel],
    ways: Sequence[str],
    *,
    count: int,
    prompt: int,
    length: int,
    rounds: int,
    batch_tokens: int | None = None,
    script_rollouts: int = 2,
    product_rate: float | None = None,
    cpu_time: bool = False,
) -> list[Speed]:
    """Time some ways on responses of one length.

    Args:
        models: Teacher and student.
        ways: Names of the ways; `bare` among them.
        count: Number of rollouts.
        prompt: Tokens of a prompt.
        length: Most tokens of a response.
        rounds: How often each way is timed.
        batch_tokens: Most tokens of a batch; None: by the memory that is free.
        script_rollouts: Rollouts of the way `script`.
        product_rate: FLOP/s of a product of matrices on this device, to measure against.
        cpu_time: Whether the process's own time counts.
    """
    teacher, student = models
    device = student.model.device.type
    clock = time.process_time if cpu_time else time.perf_counter
    ids = min(IDS, teacher.width, student.width)
    inputs = make_inputs(ids, count, prompt, length, seed=0)
    size = batch_tokens or default_batch_tokens(list(models))
    read = inputs.sequences
    job = Job(read, Measures(K_GRID), ids, chunk_rows(ids, device), teacher, {"student": student})
    with_kernel = job._replace(measures=job.measures._replace(fused=True))
    batches = plan_batches(read.lengths, size)
    tokens = int(read.responses.offsets[-1])
    few = min(script_rollouts, count)
    parts = plan_parts(read.responses.lengths, 262_144)

    def scored(job: Job) -> None:
        with tempfile.TemporaryDirectory() as folder, StderrProgress() as progress:
            progress.start("score", tokens)

            def report(kind: str, value: object) -> None:
                if kind == "advance" and isinstance(value, int):
                    progress.advance(value)

            for number, part in enumerate(parts):
                plan = PartPlan(number, part, size, "punkt")
                score_and_write_part(job, inputs, Path(folder), plan, report)

    works: dict[str, tuple[Callable[[], object], int]] = {
        "bare": (lambda: bare(job, batches), tokens),
        "score": (lambda: scored(job), tokens),
        "fused": (lambda: scored(with_kernel), tokens),
        "plain": (lambda: plain(job, batches), tokens),
        "script": (lambda: script(job, few), int(read.responses.offsets[few])),
    }
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    memory = dict.fromkeys(ways, 0.0)
    weights = torch.cuda.memory_allocated() if device == "cuda" else 0
    bare(job, batches[-1:])
    segment_responses([np.zeros(1, np.int64)], [b" "], np.zeros(1, np.bool_))  # imports nltk
    for _ in range(rounds):
        for way in ways:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            work, n = works[way]
            try:
                speeds[way].append(n / timed(work, device, clock))
            except torch.OutOfMemoryError:
                speeds[way].append(0.0)
            if device == "cuda":
                memory[way] = torch.cuda.max_memory_allocated() - weights
                torch.cuda.empty_cache()
            else:
                memory[way] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(f"{way:6s} {speeds[way][-1]:10.1f} tokens/s", flush=True)
    work_of_token = flops(models, job)
    rows = []
    for way, rates in speeds.items():
        ratios = [one / bare for one, bare in zip(rates, speeds["bare"], strict=True)]
        rate = median(rates)
        mfu = None if product_rate is None else work_of_token * rate / product_rate
        rows.append(
            Speed(way, f"{count} x {length}", rounds, rate, median(ratios), min(ratios),
                  max(ratios), memory[way] / 2**30, mfu)
        )  # fmt: skip
    return rows


@torch.inference_mode()
def main() -> None:
    """Measure, print, and add a row for each way and length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="1.7B", help=f"folder, or one of {', '.join(SHAPES)}")
    parser.add_argument("--student", default="0.6B", help="likewise")
    parser.add_argument("--rollouts", type=int, default=16, help="of the first length")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument(
        "--response", type=_numbers, default="512", help="lengths, of as many tokens in all each"
    )
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--ways", help="default: all that run here, plain and script at the first length alone"
    )
    parser.add_argument("--script-rollouts", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = default_device()
    dtype = default_dtype(device) if device == "cpu" else "bfloat16"
    models = [load(name, device, dtype) for name in (options.teacher, options.student)]
    ours = ["bare", "score"] + ["fused"] * (device == "cuda")
    where = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    if device == "cpu":
        where += f", {torch.get_num_threads()} threads" + (", CPU time" * options.cpu_time)
    names = f"{Path(options.teacher).name} | {Path(options.student).name}"
    for length in options.response:
        others = ["plain", "script"] if length == options.response[0] else []
        ways = ["bare", *options.ways.split(",")] if options.ways else ours + others
        speeds = measure(
            models,
            list(dict.fromkeys(ways)),
            count=max(1, options.rollouts * options.response[0] // length),
            prompt=options.prompt,
            length=length,
            rounds=options.rounds,
            batch_tokens=options.batch_tokens,
            script_rollouts=options.script_rollouts,
            product_rate=matrix_rate() if device == "cuda" else None,
            cpu_time=options.cpu_time,
        )
        rows = [
            f"| {date.today()} | {where} | {torch.__version__} | {names} | {one.tokens} | "
            f"{one.rounds} | {one.way} | {one.rate:.1f} | {one.of_bare:.3f} | "
            f"{one.low:.3f} - {one.high:.3f} | {one.gib:.2f} | "
            f"{'' if one.mfu is None else f'{one.mfu:.2f}'} |"
            for one in speeds
        ]
        if not RESULTS.exists():
            RESULTS.write_text(HEADER)
        with RESULTS.open("a") as file:
            file.write("\n".join(rows) + "\n")
        print("\n".join(rows))


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


HEADER = """# Speed of scoring

Rows of `python -m benchmarks.score_speed`; medians over rounds, and the range of the ratio to
bare. Peak memory: on a GPU what is held beside the weights, on the CPU the whole process so far.
MFU: model FLOP utilisation, weights only, against a bfloat16 product measured in the same run.
0 tokens/s: out of memory.

| date | device | torch | teacher | student | tokens | rounds | way | tokens/s | of bare \
| range | GiB | MFU |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    main()
