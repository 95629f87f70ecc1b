"""`python -m kernels.execute`: whole or not at all, and nothing volatile stored."""

import nbformat
import pytest

from kernels import execute


@pytest.fixture
def notebook(tmp_path):
    """A function that writes a notebook with the given code cells."""

    def write(*cells):
        book = nbformat.v4.new_notebook()
        book.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        book.cells[0].metadata["execution"] = {"iopub.status.busy": "yesterday"}
        book.metadata["language_info"] = {"name": "python", "version": "2.7"}
        nbformat.write(book, tmp_path / "page.ipynb")
        return tmp_path / "page.ipynb"

    return write


def test_outputs_are_stored_without_what_is_volatile(notebook, capsys):
    path = notebook(
        "print(1)\nprint(2)", "import sys\nprint('hush', file=sys.stderr)", "1 + 1"
    )
    assert execute.main([str(path)]) == 0
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert book.metadata == execute.METADATA
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3]
    assert [cell.metadata for cell in book.cells] == [{}, {}, {}]
    assert [output.text for output in book.cells[0].outputs] == ["1\n2\n"]
    assert book.cells[1].outputs == []
    assert book.cells[2].outputs[0].data["text/plain"] == "2"
    assert "hush" in capsys.readouterr().err


def test_a_notebook_that_fails_is_left_alone(notebook, capsys):
    path = notebook("print(1)", "1 / 0")
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    said = capsys.readouterr()
    assert "ZeroDivisionError" in said.err
    assert "0 of 1 notebooks" in said.out


def test_writing_that_fails_leaves_the_old_notebook(notebook, monkeypatch):
    path = notebook("1")
    before = path.read_bytes()

    def full_disk(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(execute.nbformat, "write", full_disk)
    with pytest.raises(OSError):
        execute.write_whole(nbformat.read(path, as_version=4), path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["nowhere.ipynb", "README.md"])
def test_what_is_no_notebook_is_refused(name, capsys):
    with pytest.raises(SystemExit) as refusal:
        execute.main([name])
    assert refusal.value.code == 2
    assert f"{name} is not a notebook" in capsys.readouterr().err


def test_all_notebooks_of_the_book_are_found():
    names = [path.name for path in execute.notebooks_of_the_book()]
    assert names[0].startswith("01_")
    assert "results.ipynb" in names
