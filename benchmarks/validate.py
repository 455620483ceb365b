"""Run every study over hundreds of seeds, and write what they print to results/validity.md.

A study is a module `benchmarks/validate_<name>.py` that prints Markdown. With names, such as
`python -m benchmarks.validate rocks release`, only those run, and the others keep their section;
one study alone takes options of its own, such as `findings --seeds 40`.
All of them take some hours on two cores; each section ends with how long it took.
"""

import argparse
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STUDIES = sorted(
    path.stem.removeprefix("validate_") for path in Path(__file__).parent.glob("validate_*.py")
)
RESULT = Path(__file__).parent / "results" / "validity.md"
HEAD = "Written by `make validate`: what intervals, rules and tests do where the truth is known.\n"
WRITTEN = "summary"  # the section that is written by hand, from the others; it stands first
SECTION = re.compile(r"^<!-- (\w+) -->\n(.*?)(?=^<!-- \w+ -->\n|\Z)", re.DOTALL | re.MULTILINE)


def run_study(name: str, options: Sequence[str]) -> str:
    """Run a study, and return what it prints while showing it."""
    command = [sys.executable, "-m", f"benchmarks.validate_{name}", *options]
    printed = []
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None
        for line in study.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    if study.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {study.returncode}; expected 0")
    minutes = (time.perf_counter() - started) / 60
    return "".join([*printed, f"\nTook {minutes:.0f} minutes.\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the validity studies.")
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="default: all of them")
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    options = sys.argv[1 + len(names) :]
    if options in (["-h"], ["--help"]):
        parser.print_help()
        return
    wanted = parser.parse_args(names).studies or STUDIES
    if options and len(wanted) > 1:
        parser.error(f"{' '.join(options)}: expected one study, which takes these options")
    found = dict(SECTION.findall(RESULT.read_text())) if RESULT.exists() else {}
    for name in wanted:
        found[name] = run_study(name, options)
        sections = (
            f"<!-- {key} -->\n{found[key].strip()}\n" for key in (WRITTEN, *STUDIES) if key in found
        )
        RESULT.write_text("\n".join([HEAD, *sections]))
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
