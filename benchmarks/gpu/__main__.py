"""Everything that needs a GPU, in one command of at most eight minutes: checks, then speeds.

`python -m benchmarks.gpu` writes benchmarks/results/gpu.md and gpu.json after every step, so that
nothing is lost where the machine goes. A step that fails, or no longer fits into the budget, is a
row with its reason. `--tiny --device cpu` tries all of it at the smallest size; the suite does.

It needs torch, transformers, triton, accelerate, and numpy, scipy, polars, psutil, rich, nltk,
jinja2 and filelock; bitsandbytes, trl and liger-kernel are used where they are installed.
"""

import argparse
import importlib.metadata
import os
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RESULT = ROOT / "benchmarks" / "results" / "gpu.md"
LIBRARIES = ("torch", "transformers", "triton", "polars", "trl", "liger-kernel", "bitsandbytes")
HEAD = """# On a GPU

Written by `python -m benchmarks.gpu`. A check compares with float64 on the CPU or with plain torch;
speeds are medians of three rounds, the ratio to bare of the same round.
"""


def name_the_package(folder: Path) -> None:
    """Let a checkout that is not installed say its version, as manifests of runs do."""
    try:
        importlib.metadata.version("opd-diag")
    except importlib.metadata.PackageNotFoundError:
        number = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        info = folder / f"opd_diag-{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: opd-diag\nVersion: {number}\n"
        )
        sys.path.append(str(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps, and return 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes")
    parser.add_argument("--seconds", type=float, default=470, help="budget of all steps")
    parser.add_argument("--only", help="names of steps, separated by commas")
    parser.add_argument("--skip", default="", help="likewise, those that are left out")
    parser.add_argument("--out", type=Path, default=RESULT, help="the Markdown file")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        name_the_package(folder)
        return _run(given, folder)


def _run(given: argparse.Namespace, folder: Path) -> int:
    import torch

    from benchmarks.gpu import checks, speed, stages
    from benchmarks.gpu.report import FAILED, Setting, Step, run_steps, write_report

    steps = (
        Step("exact columns", "All columns of given states against float64.", 15,
             checks.exact_columns),
        Step("fused kernel", "The kernel against plain torch.", 15, checks.fused_kernel),
        Step("whole models", "KL of the sample models against float64.", 15, checks.whole_models),
        Step("determinism", "The same call twice, and its noise floor.", 10, checks.determinism),
        Step("memory", "Recovery where memory runs out.", 15, checks.memory),
        Step("product", "A product of bfloat16 matrices.", 3, speed.product),
        Step("8B and 1.7B", "`score` against bare work; memory beside the weights.", 100,
             speed.pair("8B", "1.7B")),
        Step("1.7B and 0.6B", "Likewise.", 50, speed.pair("1.7B", "0.6B")),
        Step("stages", "Where the time of `score` goes, 8B and 1.7B at 4,096 tokens.", 30,
             stages.stages),
        Step("tiles", "The kernel alone, by the tile of the vocabulary.", 20, stages.tiles),
        Step("other kernels", "One chunk of rows by what others have.", 40, speed.other_kernels),
        Step("workers", "One process for the device against a single process.", 30,
             checks.workers),
        Step("attention", "The body of 1.7B under each way of attention.", 40, speed.attention),
        Step("quantised teacher", "How far the numbers move.", 20, checks.quantised),
    )  # fmt: skip
    only = given.only.split(",") if given.only else [step.name for step in steps]
    chosen = [s for s in steps if s.name in only and s.name not in given.skip.split(",")]
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("no GPU that torch finds; --tiny --device cpu tries everything without one")
        return 2
    setting = Setting(given.device, given.tiny, folder, ROOT / "sample_data")
    machine = {
        "date": str(date.today()),
        "device": torch.cuda.get_device_name() if setting.on_gpu else "cpu",
        "size": "tiny: a dry run, no figure counts" if given.tiny else "full",
        "python": sys.version.split()[0],
        **{name: _version(name) for name in LIBRARIES},
    }
    done = run_steps(
        chosen, setting, given.seconds, lambda so_far: write_report(
            given.out, HEAD, machine, so_far
        ),
    )  # fmt: skip
    print(f"wrote {given.out} and {given.out.with_suffix('.json')}")
    return int(any(one.state == FAILED for one in done))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, nothing waits for a network
    sys.exit(main())
