"""Every notebook runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.ipynb")), ids=lambda f: f.name)
def test_notebook(file):
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert any(c.cell_type == "code" and c.outputs for c in notebook.cells)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.ipynb")), ids=lambda f: f.name)
def test_it_is_kept_executed(file):
    notebook = nbformat.read(file, as_version=4)
    assert all(c.outputs or c.execution_count for c in notebook.cells if c.cell_type == "code")
