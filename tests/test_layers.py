"""The borders and the depth of the package: who may see whom, and what `--help` costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
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
    "exports": {"errors", "tables", "stats", "text", "analyses"},
    "plots": {"errors", "tables", "text"},
    "updates": {"errors", "tables", "stats", "text", "scoring", "analyses"},
    "interventions": {"errors", "tables", "stats", "text", "scoring", "analyses"},
    "reports": {"errors", "tables", "stats", "text", "analyses", "exports", "plots"},
    "cli": {
        *("errors", "tables", "stats", "text"),
        *("rollouts", "scoring", "analyses", "plots", "exports", "reports"),
        *("updates", "interventions"),
    },
    "__main__": {"cli"},
}
# Where a library may be imported; torch's pickles are read without a model.
HOMES = {
    "torch": ("scoring/", "updates/", "interventions/", "rollouts/pickles.py", "exports/formats/"),
    "matplotlib": ("plots/", "reports/inline_figures.py"),
}
HEAVY = ("torch", "transformers", "matplotlib", "scipy", "nltk", "numpy", "polars")
LONGEST_MODULE = 400  # lines
LONGEST_CHAIN = 7  # modules


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


def test_analyses_do_not_import_each_other() -> None:
    """What two analyses share is a module beside them; only findings sees all of them."""
    wings = {path.name for path in (PACKAGE / "analyses").iterdir() if path.is_dir()}
    assert {"release_points", "rock_tokens", "teachability", "agreement_traps"} <= wings
    for path in (path for path in MODULES if part(path) == "analyses"):
        own = path.relative_to(PACKAGE).parts[1]
        seen = {n.split(".")[2] for n in imports(path) if n.startswith("opd_diag.analyses.")}
        if own != "findings":
            assert not seen & wings - {own}, f"{path} imports {seen & wings - {own}}"


def test_no_module_is_longer_than_one_job() -> None:
    lengths = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in MODULES}
    assert {name: n for name, n in lengths.items() if n > LONGEST_MODULE} == {}


# --- Depth ----------------------------------------------------------------------------------------

Graph = Mapping[str, set[str]]


def module_name(path: Path) -> str:
    parts = ("opd_diag", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def module_graph() -> dict[str, set[str]]:
    """Each module and the modules that it imports, anywhere in it but for types alone.

    The package's own names are imported when they are used, so `opd_diag` is no node.
    """
    names = {module_name(path): path for path in MODULES}
    return {
        name: imported_modules(path, set(names)) - {name, "opd_diag"}
        for name, path in names.items()
        if name != "opd_diag"
    }


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """The modules of the package that a module needs when it runs."""
    modules = set()
    for node in running(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                modules.add(full if full in known else str(node.module))
    return modules & known


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for part in node.orelse if for_types else [node]:
            yield part
            yield from running(part)


def inside(graph: Graph, folder: str) -> dict[str, set[str]]:
    """The graph of one folder: its modules, each of its own folders as one node."""

    def place(name: str) -> str | None:
        if name != folder and not name.startswith(f"{folder}."):
            return None
        return ".".join(name.split(".")[: folder.count(".") + 2])

    found: dict[str, set[str]] = {}
    for name, imported in graph.items():
        if here := place(name):
            below = {there for other in imported if (there := place(other))}
            found[here] = found.get(here, set()) | below - {here}
    return found


def longest_chain(graph: Graph) -> list[str]:
    """The longest path of imports.

    Raises:
        AssertionError: If there is a circle; it names it.
    """
    chains: dict[str, list[str]] = {}

    def chain(name: str, above: list[str]) -> list[str]:
        assert name not in above, f"circle: {' > '.join([*above[above.index(name) :], name])}"
        if name not in chains:
            below = (chain(other, [*above, name]) for other in graph.get(name, ()))
            chains[name] = [name, *max(below, key=len, default=[])]
        return chains[name]

    return max((chain(name, []) for name in graph), key=len, default=[])


FOLDERS = sorted({module_name(path.parent / "__init__.py") for path in MODULES})


def test_modules_import_each_other_in_no_circle() -> None:
    assert longest_chain(module_graph())


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_not_deep(folder: str) -> None:
    """Inside a folder the longest chain of imports is short, and its folders form no circle."""
    chain = longest_chain(inside(module_graph(), folder))
    assert len(chain) <= LONGEST_CHAIN, " > ".join(chain)


def test_the_rules_of_depth_see_circles_and_chains() -> None:
    with pytest.raises(AssertionError, match="circle: a > b > a"):
        longest_chain({"a": {"b"}, "b": {"a"}})
    assert longest_chain({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == ["a", "b", "c"]
    rooms = {"p.a.x": {"p.b.y"}, "p.b.y": {"p.c"}, "p.c": set(), "q": {"p.c"}}
    assert inside(rooms, "p") == {"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": set()}
    mixed = {"p.a.x": {"p.b.y"}, "p.b.z": {"p.a.x"}, "p.b.y": set()}
    assert longest_chain(mixed)
    with pytest.raises(AssertionError, match="circle"):
        longest_chain(inside(mixed, "p"))
    source = "if TYPE_CHECKING:\n    import a\nelse:\n    import b\ndef f():\n    import c\n"
    names = [n.names[0].name for n in running(ast.parse(source)) if isinstance(n, ast.Import)]
    assert names == ["b", "c"]


def test_no_subpackage_is_named_like_a_function() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    functions = set(opd_diag.__all__) - {"datasets", "plots", "stats"}
    assert not folders & functions


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
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
