"""Every notebook runs from top to bottom on an analysed run, answers, and shows a figure."""

import ast
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import opd_diag as od
from opd_diag.cli.analyze import ORDER
from opd_diag.datasets import save_run, trap_run
from opd_diag.tables.columns import ANALYSES

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = (
    "1_score",
    "2_rock_tokens",
    "3_teachability",
    "4_release_points",
    "5_agreement_traps",
    "6_compare_selectors",
)
SETTINGS = {"agreement_traps": {"draws": 2}, "rock_tokens": {}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints and the results of all analyses."""
    data = trap_run(prompts=24, samples=1, tokens=160, length=60, seed=3)
    run = save_run(data, tmp_path_factory.mktemp("runs") / "run")
    for name in ORDER:
        result = getattr(od, name)(run, **SETTINGS.get(name, {}))
        run.save(result._asdict(), arguments={})
    return run


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_the_notebooks_are_those_and_every_analysis_has_one():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)
    about = {name.split("_", 1)[1] for name in NAMES}
    assert about >= set(ANALYSES) - {"score_summary", "findings", "loss_audit", "update_alignment"}
    assert "od.score_summary(" in "".join(code(read("1_score")))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_stored_with_what_it_prints_and_nothing_of_a_machine(name):
    notebook = read(name)
    nbformat.validate(notebook)
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text) < 400_000
    assert not re.search(r"/(home|root|tmp|work|Users|mnt)/|[A-Z]:\\\\", text)
    assert list(notebook.metadata) == ["kernelspec"]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "execute_result",
        "display_data",
    }
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not any(cell.metadata for cell in notebook.cells)
    for source in code(notebook):
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
        assert not any(isinstance(node, kinds) for node in ast.walk(ast.parse(source)))
    question = notebook.cells[0].source
    assert "?" in question
    assert question.startswith(f"# {name[0]}. ")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_answers_from_the_tables_of_any_run(name, run, monkeypatch):
    monkeypatch.setenv("OPD_DIAG_RUN", str(run.path))
    notebook = read(name)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert any(sign.isdigit() for sign in said)
    assert "None" not in said
    assert "nan" not in said.split()
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)


def test_the_gallery_holds_a_small_figure_of_every_analysis(run, tmp_path):
    spec = importlib.util.spec_from_file_location("make_gallery", FOLDER / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    paths = module.main(run.path, tmp_path)
    assert [path.stem for path in paths[4:]] == ["token_strip"]
    assert len({next(a for a, t in ANALYSES.items() if p.stem in t) for p in paths[:4]}) == 4
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 100_000
