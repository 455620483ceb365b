"""Measure the structure of a checkout: `python -m benchmarks.structure [FOLDER ...]`.

One column for each folder that holds a package `opd_diag`, this one by default: modules, lines,
chains of imports, modules with a single importer, and in how many modules of the analyses the same
job is done by hand: reading token columns, summing per prompt, building tables, wording numbers.
"""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

PACKAGE = "opd_diag"
FLOAT_FORMAT = re.compile(r"^[,+ ]?\.?\d*\.?\d*[%efg]$")


def read_modules(root: Path) -> dict[str, ast.Module]:
    """Parse every module of the package, by dotted name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text()
        )
        for path in sorted((root / PACKAGE).rglob("*.py"))
    }


def import_graph(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """List the modules of the package that each module imports anywhere in its text."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    target = full if full in modules else node.module
                    if target in modules and target != name:
                        graph[name].add(target)
    return graph


def longest_chain(graph: dict[str, set[str]], inside: set[str]) -> int:
    """Count the modules on the longest chain of imports; a circle ends its chain."""
    known: dict[str, int] = {}

    def depth(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            return 0
        if name not in known:
            known[name] = 1 + max(
                (depth(o, (*path, name)) for o in graph[name] & inside), default=0
            )
        return known[name]

    return max((depth(name, ()) for name in sorted(inside)), default=0)


def circles(graph: dict[str, set[str]]) -> int:
    """Count groups of modules that import each other in a circle."""
    reach = {name: set(below) for name, below in graph.items()}
    changed = True
    while changed:
        changed = False
        for name in reach:
            wider = reach[name].union(*(reach[other] for other in reach[name]))
            changed |= wider != reach[name]
            reach[name] = wider
    groups = {
        frozenset(o for o in reach if name in reach[o] and o in reach[name]) for name in reach
    }
    return sum(bool(group) for group in groups)


def calls(tree: ast.AST) -> Counter[str]:
    """Count the names of what is called, the last part of each."""
    names: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            names[getattr(function, "attr", getattr(function, "id", ""))] += 1
    return names


def words_numbers(tree: ast.AST) -> bool:
    """Tell whether a module formats numbers by itself, such as `{value:.3g}`."""
    specs = (
        part.value
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr)
        for part in node.format_spec.values
        if isinstance(part, ast.Constant)
    )
    return any(FLOAT_FORMAT.match(str(spec)) for spec in specs)


def sums_prompts(tree: ast.AST) -> bool:
    """Tell whether a function sums the rows of prompts by hand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            adds = calls(node).keys() & {"bincount", "reduceat"}
            named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            named |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            named |= {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
            if adds and named & {"prompt", "prompts", "codes", "cluster", "clusters", "unit"}:
                return True
    return False


def measure(root: Path) -> dict[str, object]:
    """Measure one checkout."""
    modules = read_modules(root)
    graph = import_graph(modules)
    lines = {path: len(path.read_text().splitlines()) for path in (root / PACKAGE).rglob("*.py")}
    folders: dict[str, set[str]] = {}
    for path in lines:
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        folders.setdefault(path.parent.relative_to(root).as_posix(), set()).add(name)
    chains = {folder: longest_chain(graph, names) for folder, names in sorted(folders.items())}
    importers = Counter(target for below in graph.values() for target in below)
    analyses = {n: tree for n, tree in modules.items() if n.startswith(f"{PACKAGE}.analyses.")}
    found: dict[str, object] = {
        "modules": len(modules),
        "lines": sum(lines.values()),
        "lines of the longest module": max(lines.values()),
        "longest chain of imports": longest_chain(graph, set(graph)),
        "circles": circles(graph),
        "modules with a single importer": sum(importers[name] == 1 for name in modules),
        "analyses: modules": len(analyses),
        "analyses: modules that read token columns": sum(
            calls(tree)["tokens"] > 0 for tree in analyses.values()
        ),
        "analyses: modules that sum per prompt": sum(map(sums_prompts, analyses.values())),
        "analyses: modules that build tables": sum(
            bool(calls(tree).keys() & {"polars_schema", "check_table"})
            for tree in analyses.values()
        ),
        "analyses: modules that format numbers": sum(map(words_numbers, analyses.values())),
        "lines of README": len((root / "README.md").read_text().splitlines()),
    }
    deepest = sorted(chains.items(), key=lambda item: -item[1])
    return found | {f"chain in {folder}": chain for folder, chain in deepest if chain > 4}


def main() -> None:
    roots = [Path(text) for text in sys.argv[1:]] or [Path(__file__).parents[1]]
    columns = [measure(root) for root in roots]
    names = dict.fromkeys(name for column in columns for name in column)
    header = ["", *(f"({n + 1})" for n in range(len(roots)))] if len(roots) > 1 else ["", "value"]
    print("| " + " | ".join(header) + " |")
    print("|---" + "|--:" * len(roots) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(str(column.get(name, "-")) for column in columns) + " |")


if __name__ == "__main__":
    main()
