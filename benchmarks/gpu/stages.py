"""Where the time of scoring goes, stage by stage, and which tiles suit the fused kernel."""

from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.report import Row, Setting, UnavailableError, guarded
from benchmarks.gpu.speed import K_GRID, median_seconds
from benchmarks.score_speed import IDS, load, make_inputs, measure
from opd_diag.errors import OptionError
from opd_diag.scoring.columns.buffers import Buffers
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.columns.measures import measure as measure_plain
from opd_diag.scoring.columns.rows import Rows, head_logits
from opd_diag.scoring.columns.top_k import top_k
from opd_diag.scoring.models.forward import response_states
from opd_diag.scoring.options import check_fused

TEACHER, STUDENT = "8B", "1.7B"
ROWS = 1024


@torch.inference_mode()
def stages(setting: Setting) -> Iterator[Row]:
    """Every stage alone on the same tokens, and what is left of the time of `score`."""
    tiny = setting.tiny
    names = ("tiny", "tiny") if tiny else (TEACHER, STUDENT)
    count, prompt, length = (1, 4, 8) if tiny else (8, 64, 4_096)
    teacher, student = models = [load(name, setting.device, "bfloat16") for name in names]
    ids = min(IDS, teacher.width, student.width)
    read = make_inputs(ids, count, prompt, length, seed=0).sequences
    every = range(count)
    tokens = int(read.responses.lengths.sum())
    states = [response_states(model, read.prompts, read.responses, every) for model in models]
    few = min(ROWS, tokens)
    rows = [
        Rows(model.head.cut(0, ids), own[:few]) for model, own in zip(models, states, strict=True)
    ]
    at = torch.zeros(few, 1, dtype=torch.int64).to(setting.device)
    measures, buffers = Measures(K_GRID), Buffers()

    def body(place: int) -> Callable[[], object]:
        return lambda: response_states(models[place], read.prompts, read.responses, every)

    def logits() -> list[torch.Tensor]:
        return [head_logits(one, buffers, str(place)) for place, one in enumerate(rows)]

    whole = logits()
    most = min(measures.top, ids)
    works: dict[str, tuple[Callable[[], object], int]] = {
        "teacher's body": (body(0), tokens),
        "student's body": (body(1), tokens),
        "both heads": (logits, few),
        "top K of both": (lambda: [top_k(own, most) for own in whole], few),
        "all columns, top K among them": (
            lambda: measure_plain(at, whole[0], [rows[1].head], [whole[1]], measures, buffers),
            few,
        ),
        "gradient to the hidden state": (lambda: rows[1].head.backward(whole[1].clone()), few),
    }
    spent = {}
    for name, (work, n) in works.items():
        spent[name] = 1e6 * median_seconds(work, setting) / n
    (bare, scored) = measure(
        models,
        ["bare", "score"],
        count=count,
        prompt=prompt,
        length=length,
        rounds=1 if tiny else 3,
    )
    spent |= {"bare": 1e6 / bare.rate, "score": 1e6 / scored.rate}
    timed_alone = sum(spent[name] for name in works if name != "top K of both")
    spent["rest: types, tables, files"] = spent["score"] - timed_alone
    for name, seconds in spent.items():
        yield {
            "stage": name,
            "microseconds a token": seconds,
            "of `score`": seconds / spent["score"],
        }


@torch.inference_mode()
def tiles(setting: Setting) -> Iterator[Row]:
    """The kernel's sums over the vocabulary for several tiles, on the same logits."""
    try:
        check_fused(setting.device)
    except OptionError as error:
        raise UnavailableError(str(error)) from error
    from opd_diag.scoring.columns.fused_kernel import TILE, Tile, pair_sums

    n, ids = (2, 320) if setting.tiny else (ROWS, IDS)
    generator = torch.Generator().manual_seed(0)
    teacher, student = (
        (3 * torch.randn(n, ids, generator=generator)).to(setting.device) for _ in range(2)
    )
    tokens = torch.zeros(n, dtype=torch.int64).to(setting.device)
    tops = student.argmax(1), teacher.argmax(1)
    best = pair_sums(student.clone(), teacher, tokens, tops, temperature=1.0, soft_cap=None)
    for size in (256,) if setting.tiny else (512, 1024, 2048, 4096, 8192):
        for warps in (4,) if setting.tiny else (4, 8, 16):
            tile = Tile(size, warps)

            def one(tile: Tile = tile) -> Row:
                def work() -> torch.Tensor:
                    own = student.clone()  # the kernel leaves a gradient there
                    sums = pair_sums(
                        own, teacher, tokens, tops, temperature=1.0, soft_cap=None, tile=tile
                    )
                    return sums.reverse_kl

                gap = float((work() - best.reverse_kl).abs().max())
                return {
                    "ms, with a copy of the logits": 1e3 * median_seconds(work, setting),
                    "largest difference of KL, nat": gap,
                    "default": tile == TILE,
                }

            yield guarded({"ids a tile": size, "warps": warps}, one)
