"""What must hold on a GPU: numbers against float64, the kernel, memory, determinism, workers."""

import functools
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.gpu.report import Row, Setting, UnavailableError
from opd_diag.errors import OpdDiagError
from opd_diag.rollouts import read_rollouts
from opd_diag.scoring.columns.measures import Measures
from opd_diag.scoring.columns.rows import Rows, Scored, score_rows
from opd_diag.scoring.models.heads import as_head
from opd_diag.scoring.options import check_fused
from opd_diag.scoring.parts import score_part
from opd_diag.scoring.score import score
from opd_diag.tables.run import Run

REFERENCE = Path(__file__).parents[2] / "tests" / "scoring" / "reference.py"
KEYS = ("rollout", "position", "token_id")
EXACT = ("student_rank", "teacher_rank", "teacher_top_rank", "student_top_id", "teacher_top_id")
K_GRID = (2, 4, 8, 16, 32, 64)


@functools.cache
def _reference() -> ModuleType:
    """Load the columns by brute force; another package here may be called `tests`, too."""
    spec = spec_from_file_location("reference", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _random_rows(setting: Setting, dtype: torch.dtype, n: int) -> dict[str, Any]:
    """Make hidden states and heads of two models whose logits have a spread of about 3."""
    ids, width = (500, 16) if setting.tiny else (151_669, 256)
    generator = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    weights = [some(ids, width) * (3 / width**0.5) for _ in range(2)]
    states = [some(n, width) for _ in range(2)]
    states[1] = (states[0] + states[1] / 3).to(dtype)
    weights[1] = (weights[0] + weights[1] / 3).to(dtype)
    logits = [w.double() @ h.double().T for w, h in zip(weights, states, strict=True)]
    tokens = torch.multinomial(torch.softmax(logits[0].T, 1), 1, generator=generator)[:, 0]
    return {"weights": weights, "states": states, "logits": logits, "tokens": tokens}


def _scored(setting: Setting, made: dict[str, Any], measures: Measures, **head: Any) -> Scored:
    student, teacher = (
        Rows(
            as_head(w, None, scale=1.0, soft_cap=head.get("soft_cap"), device=setting.device),
            h.to(setting.device),
        )
        for w, h in zip(made["weights"], made["states"], strict=True)
    )
    (scored,) = score_rows(made["tokens"].to(setting.device), teacher, [student], measures)
    return scored


def exact_columns(setting: Setting) -> Iterator[Row]:
    """Every column of given hidden states against float64, scipy and autograd on the CPU."""
    n = 2 if setting.tiny else 16
    for dtype in (torch.float32, torch.bfloat16):
        made = _random_rows(setting, dtype, n)
        columns = {
            name: values.double().cpu().numpy()
            for name, values in _scored(setting, made, Measures(K_GRID)).columns.items()
        }
        worst: dict[str, float] = {}
        for row in range(n):
            x, y = (own[:, row].numpy() for own in made["logits"])
            expected = _reference().row_columns(x, y, int(made["tokens"][row]), K_GRID)
            if row < 4:
                weight = made["weights"][0].double().numpy()
                norms, _ = _reference().gradients(
                    made["states"][0][row].double().numpy(), weight, y
                )
                expected |= norms
            for name, value in expected.items():
                gap = _gap(columns[name][row], value)
                if name in EXACT:  # among close logits, rounding moves a rank by one
                    gap = max(0.0, abs(columns[name][row] - value) - 1) / max(1.0, value)
                worst[name] = max(worst.get(name, 0.0), gap)
        name = max(worst, key=lambda one: worst[one])
        yield {
            "head": str(dtype).removeprefix("torch."),
            "rows": n,
            "ids": len(made["weights"][0]),
            "worst column": name,
            "largest difference": worst[name],
            "bound": 1e-4,
            "ok": worst[name] < 1e-4,
        }


def _gap(value: Any, expected: Any) -> float:
    """Return the largest difference, relative where the number is above 1."""
    expected = np.asarray(expected, np.float64)
    return float((np.abs(np.asarray(value) - expected) / np.maximum(1.0, np.abs(expected))).max())


def fused_kernel(setting: Setting) -> Iterator[Row]:
    """The fused kernel against plain torch on the same hidden states."""
    try:
        check_fused(setting.device)
    except OpdDiagError as error:
        raise UnavailableError(str(error)) from error
    n = 2 if setting.tiny else 256
    for dtype, temperature, soft_cap in (
        (torch.float32, 1.0, None),
        (torch.float32, 0.7, 30.0),
        (torch.bfloat16, 1.0, None),
    ):
        made = _random_rows(setting, dtype, n)
        measures = Measures(K_GRID, temperature=temperature)
        want, got = (
            _scored(setting, made, measures._replace(fused=fused), soft_cap=soft_cap)
            for fused in (False, True)
        )
        gaps = {
            name: _gap(got.columns[name].double().cpu(), values.double().cpu())
            for name, values in want.columns.items()
        }
        scale = float(want.gradient.abs().max())
        gaps["gradient"] = float((got.gradient - want.gradient).abs().max()) / scale
        name = max(gaps, key=lambda one: gaps[one])
        yield {
            "head": str(dtype).removeprefix("torch."),
            "temperature": temperature,
            "soft cap": soft_cap,
            "rows": n,
            "worst column": name,
            "largest difference": gaps[name],
            "bound": 1e-5,
            "ok": gaps[name] < 1e-5,
        }


class Heard:
    """Keeps what `score` says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __enter__(self) -> "Heard":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, task: str, tokens: int) -> None:
        """Nothing."""

    def advance(self, tokens: int) -> None:
        """Nothing."""

    def say(self, message: str) -> None:
        """Keep a line."""
        self.said.append(message)


def score_sample(setting: Setting, name: str, **options: Any) -> Run:
    """Score some of the sample data into a folder of that name."""
    dump = read_rollouts(setting.sample / "rollouts_step0.jsonl", limit=2 if setting.tiny else 64)
    place = {} if "devices" in options else {"device": setting.device}
    return score(
        dump,
        teacher=str(setting.sample / "teacher"),
        students={"step0": str(setting.sample / "students" / "step0")},
        out=setting.folder / name,
        max_response_tokens=12 if setting.tiny else None,
        **{"dtype": "float32", "progress": Heard(), **place, **options},
    )


def tokens_of(run: Run) -> pl.DataFrame:
    """Return all tokens of a run."""
    return run.tokens().collect()


def whole_models(setting: Setting) -> Iterator[Row]:
    """The sample models end to end, against themselves in float64 on the CPU.

    In bfloat16 the body rounds: beside our numbers stand those of transformers' own logits in
    bfloat16 on the same device, which may not be nearer.
    """
    sample = setting.sample
    folders = {"student": str(sample / "students" / "step0"), "teacher": str(sample / "teacher")}
    for dtype, bound in (("float32", 2e-3), ("bfloat16", None)):
        run = score_sample(setting, f"whole-{dtype}", dtype=dtype)
        ids, table = run.vocab.height, tokens_of(run)
        gaps: list[float] = []
        theirs: list[float] = []
        for rollout in run.rollouts.filter(pl.col("rollout") < (1 if setting.tiny else 6)).rows(
            named=True
        ):
            own = table.filter(rollout=rollout["rollout"])
            prompt = rollout["prompt_token_ids"]
            response = rollout["response_token_ids"][: own.height]
            x, y = (
                _reference().own_logits(folders[m], prompt, response, ids)
                for m in ("student", "teacher")
            )
            exact = _kl(torch.from_numpy(x), torch.from_numpy(y))
            gaps += (torch.tensor(own["reverse_kl"].to_list()) - exact).abs().tolist()
            plain = [
                _plain_logits(setting.device, folders[m], prompt, response, dtype)[:, :ids]
                for m in ("student", "teacher")
            ]
            theirs += (_kl(*plain) - exact).abs().tolist()
        ours, other = float(np.mean(gaps)), float(np.mean(theirs))
        row = {
            "dtype": dtype,
            "tokens": len(gaps),
            "mean |KL - float64|, nat": ours,
            "largest, nat": max(gaps),
            "transformers' own logits: mean": other,
        }
        yield row | {
            "bound": f"largest {bound}" if bound else "1.5 times transformers'",
            "ok": max(gaps) < bound if bound else ours < 1.5 * other + 1e-6,
        }


def _plain_logits(
    device: str, folder: str, prompt: list[int], response: list[int], dtype: str
) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    ids = torch.tensor([[*prompt, *response]]).to(device)
    with torch.inference_mode():
        logits = model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.cpu().double()


def _kl(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """KL(student ‖ teacher) of every row, in float64."""
    p, q = x.log_softmax(-1), y.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def memory(setting: Setting) -> Iterator[Row]:
    """Memory that runs out at a batch: the batch is halved, and the run is the same."""
    size = 4096 if setting.tiny else 65_536
    if setting.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = clean = score_sample(setting, "roomy", batch_tokens=size)
    used = torch.cuda.max_memory_reserved() if setting.on_gpu else 0
    said: list[str] = []
    for share in (0.8, 0.6, 0.5, 0.4) if setting.on_gpu else (1.0,):
        heard = Heard()
        try:
            with _LittleMemory(setting, share * used):
                run = score_sample(setting, f"tight-{share}", batch_tokens=size, progress=heard)
        except OpdDiagError as error:  # so little that not even the models fit
            yield {"what": f"{share:.0%} of the memory used before", "note": str(error)[:200]}
            break
        said = [line for line in heard.said if "out of memory: going on" in line]
        if said:
            break
    ours, theirs = tokens_of(run), tokens_of(clean)
    gap = float((ours["reverse_kl"] - theirs["reverse_kl"]).abs().max())  # type: ignore[arg-type]
    yield {
        "what": f"{share:.0%} of the memory used before" if setting.on_gpu else "simulated",
        "halved": len(said),
        "rows the same": ours.select(KEYS).equals(theirs.select(KEYS)),
        "largest difference of KL, nat": gap,
        "bound": 1e-3,
        "ok": bool(said) and gap < 1e-3 and ours.select(KEYS).equals(theirs.select(KEYS)),
    }


class _LittleMemory:
    """Leave so little memory that a first batch does not fit, on a CPU once by a raised error."""

    def __init__(self, setting: Setting, most: float) -> None:
        self._gpu, self._most = setting.on_gpu, most

    def __enter__(self) -> None:
        if self._gpu:
            torch.cuda.empty_cache()
            total = torch.cuda.mem_get_info()[1]
            torch.cuda.set_per_process_memory_fraction(min(1.0, self._most / total))
            return
        self._plain: Callable[..., torch.Tensor] = score_part.response_states
        calls: list[int] = []

        def states(*arguments: Any) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self._plain(*arguments)

        score_part.response_states = states  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        if self._gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()
        else:
            score_part.response_states = self._plain  # type: ignore[assignment]


def determinism(setting: Setting) -> Iterator[Row]:
    """The same call twice: every byte of the tables; and the noise floor that it records."""
    for dtype in ("float32", "bfloat16"):
        one, other = (score_sample(setting, f"{n}-{dtype}", dtype=dtype) for n in ("one", "two"))
        same = tokens_of(one).equals(tokens_of(other))
        floor = one.noise_floor("step0")
        yield {
            "dtype": dtype,
            "tokens": tokens_of(one).height,
            "equal twice": same,
            **{f"noise floor {n}": floor[n] for n in ("reverse_kl", "js", "student_logp")},
            "ok": same,
        }


def workers(setting: Setting) -> Iterator[Row]:
    """A process of its own for the device against the single process."""
    device = "cuda:0" if setting.on_gpu else setting.device
    whole = score_sample(setting, "single", device=device)
    pool = score_sample(setting, "pool", devices=[device])
    same = tokens_of(whole).equals(tokens_of(pool))
    yield {"devices": device, "tokens": tokens_of(whole).height, "equal": same, "ok": same}


def quantised(setting: Setting) -> Iterator[Row]:
    """The teacher in 4 and 8 bits: how far the numbers move from bfloat16."""
    if not setting.on_gpu:
        raise UnavailableError("needs a GPU")
    whole = tokens_of(score_sample(setting, "bits-none", dtype="bfloat16"))
    for bits in (8, 4):
        try:
            run = score_sample(setting, f"bits-{bits}", dtype="bfloat16", teacher_bits=bits)
        except OpdDiagError as error:
            yield {"teacher bits": bits, "note": str(error)[:200]}
            continue
        ours = tokens_of(run)
        gaps = {
            name: (ours[name] - whole[name]).abs().cast(pl.Float64)
            for name in ("teacher_logp", "reverse_kl", "js")
        }
        yield {
            "teacher bits": bits,
            **{f"mean |{n}| moved, nat": float(g.mean() or 0.0) for n, g in gaps.items()},  # type: ignore[arg-type]
            "mean KL, nat": float(ours["reverse_kl"].mean() or 0.0),  # type: ignore[arg-type]
            "mean KL in bfloat16, nat": float(whole["reverse_kl"].mean() or 0.0),  # type: ignore[arg-type]
        }
