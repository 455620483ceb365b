"""How fast scoring is on a GPU: against bare work, other libraries' kernels, other attention."""

import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch

from benchmarks.gpu.report import Row, Setting, guarded
from benchmarks.score_speed import load, make_inputs, matrix_rate, measure, timed
from opd_diag.scoring.columns.buffers import Buffers
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.columns.measures import measure as measure_plain
from opd_diag.scoring.models.forward import response_states
from opd_diag.scoring.models.heads import Head

LENGTHS = (512, 4_096, 16_384, 32_768)
TOKENS = 32_768  # response tokens of a measurement
K_GRID = (2, 4, 8, 16, 32, 64)
ATTENTION = ("sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "eager")
_rates: dict[str, float] = {}


def product_rate(setting: Setting) -> float:
    """Return the rate of a product of bfloat16 matrices on the device, FLOP/s; measured once."""
    if setting.device not in _rates:
        _rates[setting.device] = matrix_rate(64 if setting.tiny else 8192, setting.device)
    return _rates[setting.device]


def product(setting: Setting) -> Iterator[Row]:
    """The product that model FLOP utilisation is counted against."""
    yield {"size": 64 if setting.tiny else 8192, "TFLOP/s": product_rate(setting) / 1e12}


def pair(teacher: str, student: str) -> Callable[[Setting], Iterator[Row]]:
    """Return a step that times `score` against bare work for two shapes of models."""

    def rows(setting: Setting) -> Iterator[Row]:
        names = ("tiny", "tiny") if setting.tiny else (teacher, student)
        rate = product_rate(setting)
        ways = ["bare", "score"] + ["fused"] * setting.on_gpu
        with torch.inference_mode():
            models = [load(name, setting.device, "bfloat16") for name in names]
            for length in (8,) if setting.tiny else LENGTHS:
                try:
                    speeds = measure(
                        models,
                        ways,
                        count=1 if setting.tiny else max(1, TOKENS // length),
                        prompt=4 if setting.tiny else 64,
                        length=length,
                        rounds=1 if setting.tiny else 3,
                        product_rate=rate,
                    )
                except (RuntimeError, MemoryError) as error:
                    yield {"length": length, "note": f"failed ({str(error)[:200]})"}
                    if setting.on_gpu:
                        torch.cuda.empty_cache()
                    continue
                for one in speeds:
                    yield {
                        "length": length,
                        "tokens": one.tokens,
                        "way": one.way,
                        "tokens/s": one.rate,
                        "of bare": one.of_bare,
                        "range": f"{one.low:.3f} - {one.high:.3f}",
                        "GiB beside weights": one.gib,
                        "MFU": one.mfu,
                        "note": "" if one.rate else "out of memory",
                    }

    return rows


def attention(setting: Setting) -> Iterator[Row]:
    """The body of one model under each way of attention."""
    length = 16 if setting.tiny else 4_096
    with torch.inference_mode():
        model = load("tiny" if setting.tiny else "1.7B", setting.device, "bfloat16")
        inputs = make_inputs(300, 1 if setting.tiny else 8, 4, length, seed=0)
        prompts, _, responses = inputs.sequences
        numbers = list(range(len(responses.lengths)))
        tokens = int(responses.lengths.sum())
        embedding = model.model.get_input_embeddings().weight.numel()
        body = sum(weight.numel() for weight in model.body.parameters()) - embedding
        # The tiny size does without those that are compiled: that takes longer than all the rest.
        for name in ATTENTION[:2] if setting.tiny else ATTENTION:

            def one(name: str = name) -> Row:
                model.model.set_attn_implementation(name)
                seconds = median_seconds(
                    lambda: response_states(model, prompts, responses, numbers), setting
                )
                rate = tokens / seconds
                return {"tokens/s": rate, "MFU": 2 * body * rate / product_rate(setting)}

            yield guarded({"attention": name, "tokens": f"{len(numbers)} x {length}"}, one)


def median_seconds(work: Callable[[], object], setting: Setting, rounds: int = 5) -> float:
    """Return the median seconds of some work, after two rounds that do not count."""
    rounds = 1 if setting.tiny else rounds
    seconds = [timed(work, setting.device, time.perf_counter) for _ in range(rounds + 2)]
    return median(seconds[2:])


def other_kernels(setting: Setting) -> Iterator[Row]:
    """One chunk of rows by our two ways and by what others have.

    All begin with the final hidden states of both models. `numbers` is what a row yields: ours are
    all columns and the gradient in the logits, the others' one or two divergences without any.
    """
    n, ids, widths = (4, 320, (8, 16)) if setting.tiny else (1024, 151_669, (2048, 4096))
    generator = torch.Generator(device="cpu").manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(setting.device, torch.bfloat16)

    with torch.inference_mode():
        states = [some(n, width) for width in widths]
        weights = [some(ids, width) * (3 / width**0.5) for width in widths]
        tokens = torch.zeros(n, 1, dtype=torch.int64).to(setting.device)
        exact = _exact([h[:4] for h in states], weights)
        heads = [Head(w if setting.on_gpu else w.float()) for w in weights]
        buffers = Buffers()

        def logits() -> list[torch.Tensor]:
            return [head.logits(h) for head, h in zip(heads, states, strict=True)]

        def logits_alone() -> dict[str, torch.Tensor]:
            logits()
            return {}

        def ours() -> dict[str, torch.Tensor]:
            own, teacher = logits()
            (columns,) = measure_plain(tokens, teacher, heads[:1], [own], Measures(K_GRID), buffers)
            return {"reverse_kl": columns["reverse_kl"], "js": columns["js"]}

        def fused() -> dict[str, torch.Tensor]:
            from opd_diag.scoring.columns.fused_kernel import measure_fused

            own, teacher = logits()
            (columns,) = measure_fused(tokens, teacher, heads[:1], [own], Measures(K_GRID))
            return {"reverse_kl": columns["reverse_kl"], "js": columns["js"]}

        # The tiny size only tries the formula: compiling takes longer than all the rest.
        two = _two_divergences if setting.tiny else torch.compile(_two_divergences, dynamic=False)

        def by_compile() -> dict[str, torch.Tensor]:
            return two(*logits())

        def liger() -> dict[str, torch.Tensor]:
            from liger_kernel.transformers import LigerJSD

            own, teacher = (z.log_softmax(-1) for z in logits())
            return {"mean js": LigerJSD(0.5)(own, teacher)}

        def trl(beta: float, name: str) -> Callable[[], dict[str, torch.Tensor]]:
            def work() -> dict[str, torch.Tensor]:
                from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

                both = (states[0], weights[0], None, states[1], weights[1], None)
                return {name: ChunkedDivergenceFunction.apply(*both, beta)[0]}

            return work

        works: Sequence[tuple[str, str, Callable[[], dict[str, torch.Tensor]]]] = (
            ("logits alone", "0", logits_alone),
            ("score, plain torch", "all columns, gradient", ours),
            ("score, fused kernel", "all columns, gradient", fused),
            ("torch.compile of two divergences", "2", by_compile),
            ("Liger JSD", "1, mean over rows", liger),
            ("TRL chunked, reverse KL", "2", trl(1.0, "reverse_kl")),
            ("TRL chunked, JS", "2", trl(0.5, "js")),
        )
        for way, numbers, work in works:

            def one(work: Callable[[], dict[str, torch.Tensor]] = work) -> Row:
                values = work()
                gaps = {
                    name: float((got[:4].double().cpu() - exact[name]).abs().max())
                    for name, got in values.items()
                    if name in exact
                }
                before = _peak(setting)
                seconds = median_seconds(work, setting)
                return {
                    "ms": 1e3 * seconds,
                    "rows/s": n / seconds,
                    "GiB": _peak(setting, before),
                    "largest difference from float64, nat": max(gaps.values(), default=None),
                }

            yield guarded({"way": way, "numbers a row": numbers, "rows": n, "ids": ids}, one)


def _peak(setting: Setting, before: float | None = None) -> float:
    """Return the memory now in GiB, or the peak since then above it; 0 on a CPU."""
    if not setting.on_gpu:
        return 0.0
    if before is None:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    return torch.cuda.max_memory_allocated() / 2**30 - before


def _two_divergences(own: torch.Tensor, teacher: torch.Tensor) -> dict[str, torch.Tensor]:
    p, q = own.log_softmax(-1), teacher.log_softmax(-1)
    m = torch.logaddexp(p, q) - 0.6931471805599453
    js = (p.exp() * (p - m) + q.exp() * (q - m)).sum(-1) / 2
    return {"reverse_kl": (p.exp() * (p - q)).sum(-1), "js": js}


def _exact(
    states: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Both divergences of a few rows in float64 on the CPU."""
    own, teacher = (
        h.double().cpu() @ w.double().cpu().T for h, w in zip(states, weights, strict=True)
    )
    return _two_divergences(own, teacher)
