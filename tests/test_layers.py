"""The borders of design section 3: who may see whom, and what `--help` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import opd_diag

PACKAGE = Path(opd_diag.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Each part and the parts that it may import; `errors` stands below all.
MAY_SEE = {
    "errors": set(),
    "tables": {"errors"},
    "stats": {"errors"},
    "text": {"errors", "tables", "stats"},
    "rollouts": {"errors", "tables", "stats", "text"},
    "scoring": {"errors", "tables", "stats", "text"},
    "datasets": {"errors", "tables", "stats", "text"},
    "analyses": {"errors", "tables", "stats", "text"},
    "plots": {"errors", "tables"},
    "cli": {"errors", "tables", "stats", "text", "rollouts", "scoring", "analyses", "plots"},
}
# Where a library may be imported; torch's pickles are read without a model.
HOMES = {"torch": ("scoring/", "rollouts/pickles.py"), "matplotlib": ("plots/",)}
HEAVY = ("torch", "transformers", "matplotlib", "scipy", "nltk", "numpy", "polars")
LONGEST_MODULE = 250


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [node.module or ""]
            if node.module == "opd_diag":
                found += [f"opd_diag.{alias.name}" for alias in node.names]
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_sees_only_the_parts_below_it(path: Path) -> None:
    home = part(path)
    if home == "__init__":
        return
    names = imports(path)
    seen = {name.split(".")[1] for name in names if name.startswith("opd_diag.")}
    known = seen & set(MAY_SEE)
    assert known <= MAY_SEE[home] | {home}
    for library, homes in HOMES.items():
        if any(name.split(".")[0] == library for name in names):
            assert path.relative_to(PACKAGE).as_posix().startswith(homes), f"{library} in {path}"


@pytest.mark.parametrize("home", ["analyses", "rollouts"])
def test_siblings_do_not_import_each_other(home: str) -> None:
    """One question per module, one format per module: what is shared lies below."""
    shared = {"__init__"}
    for path in MODULES:
        if part(path) != home or len(path.relative_to(PACKAGE).parts) < 2:
            continue
        own = path.relative_to(PACKAGE).parts[1].removesuffix(".py")
        others = {n.split(".")[2] for n in imports(path) if n.startswith(f"opd_diag.{home}.")}
        if home == "analyses" and own not in shared:
            strangers = {o for o in others - {own} if not (PACKAGE / home / f"{o}.py").exists()}
            assert not strangers, f"{path} imports {strangers}"


def test_every_module_is_short() -> None:
    long = {
        str(p.name): n for p in MODULES if (n := len(p.read_text().splitlines())) > LONGEST_MODULE
    }
    assert not long


def test_no_subpackage_is_named_like_a_function() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    functions = set(opd_diag.__all__) - {"datasets", "plots", "stats"}
    assert not folders & functions


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["score", "--help"],
        ["analyze", "--help"],
        ["analyze", "release-points", "--help"],
        ["plot", "--help"],
        ["info", "--help"],
        ["check", "--help"],
        ["--version"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from opd_diag.cli import app\n"
        f"try:\n    app({arguments!r}, prog_name='opd-diag')\n"
        "except SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
