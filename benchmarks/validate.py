"""Run every study over hundreds of seeds, and write what they print to results/validity.md.

`python -m benchmarks.validate` takes about half an hour on two cores. With names, such as
`python -m benchmarks.validate rocks release`, only those run, and the others keep their section.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

STUDIES = ("intervals", "release", "rocks", "teachability", "traps")
RESULT = Path(__file__).parent / "results" / "validity.md"
HEAD = "Written by `make validate`: what intervals, rules and tests do where the truth is known.\n"
SECTION = re.compile(r"^<!-- (\w+) -->\n(.*?)(?=^<!-- \w+ -->\n|\Z)", re.DOTALL | re.MULTILINE)


def run_study(name: str) -> str:
    """Run a study, and return what it prints while showing it."""
    command = [sys.executable, "-m", f"benchmarks.validate_{name}"]
    printed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None
        for line in study.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    if study.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {study.returncode}; expected 0")
    return "".join(printed)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the validity studies.")
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="default: all of them")
    wanted = parser.parse_args().studies or STUDIES
    found = dict(SECTION.findall(RESULT.read_text())) if RESULT.exists() else {}
    for name in wanted:
        found[name] = run_study(name)
        sections = (f"<!-- {key} -->\n{found[key].strip()}\n" for key in STUDIES if key in found)
        RESULT.write_text("\n".join([HEAD, *sections]))
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
