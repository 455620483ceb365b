"""Run the notebooks on an analysed run and keep what they print: `run_notebooks.py RUN`."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def main(run: str | Path) -> list[Path]:
    """Execute every notebook in place.

    Args:
        run: Folder of an analysed run.

    Returns:
        The notebooks.
    """
    os.environ["OPD_DIAG_RUN"] = str(Path(run).resolve())
    paths = sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        resources = {"metadata": {"path": str(FOLDER)}}
        NotebookClient(notebook, timeout=120, resources=resources).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # when and how long
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
        nbformat.write(notebook, path)
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python notebooks/run_notebooks.py RUN")
    for path in main(sys.argv[1]):
        print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
