"""Plots draw columns and compute nothing but places on the page."""

import ast
from pathlib import Path

import pytest

import opd_diag

PLOTS = sorted((Path(opd_diag.__file__).parent / "plots").rglob("*.py"))
LIBRARIES = {"scipy", "torch", "sklearn", "pandas", "statistics", "random"}
# Edges of bins and of cells, and cells without a value: places. Nothing else of numpy.
NUMPY = {"arange", "linspace", "histogram_bin_edges", "ma", "maximum"}
# What makes one number out of many, or a model; a frame's min, max and sum of flags are places
# and counts in a caption.
STATISTICS = {
    "agg", "group_by", "mean", "median", "std", "var", "quantile", "percentile", "corr", "cov",
    "average", "cumsum", "cum_sum", "rolling_mean", "bootstrap", "polyfit", "lstsq", "interp",
    "over", "rank",
}  # fmt: skip


@pytest.mark.parametrize("path", PLOTS, ids=lambda p: p.name)
def test_a_figure_computes_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert not imported & LIBRARIES
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not called & STATISTICS
    of_numpy = {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy")
    }
    assert of_numpy <= NUMPY


@pytest.mark.parametrize(
    ("source", "fault"), [("np.mean(x)", "mean"), ("frame.group_by('a').agg(b)", "agg")]
)
def test_the_rule_sees_what_it_forbids(source: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "figure.py"
    path.write_text(source)
    with pytest.raises(AssertionError, match=fault):
        test_a_figure_computes_nothing(path)
