"""Execute the book's notebooks and store their outputs.

    python -m kernels.execute                      # every notebook of the book
    python -m kernels.execute book/02_online_softmax.ipynb

The stored outputs of the book come from this command on a GPU. It runs each notebook
from top to bottom in a fresh Python process, in the notebook's own folder, and writes
it back whole or, if a cell fails, not at all. What changes from run to run and says
nothing to a reader (timestamps, kernel details) is not stored; nor is stderr, which
is shown here instead. The exit status is 0 if every notebook ran and 1 if one failed.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks_of_the_book(root=ROOT):
    """Paths of the notebooks in ``_toc.yml`` under ``root``, in the reader's order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    paths = (root / f"{name}.ipynb" for name in chapters)
    return [path for path in paths if path.exists()]


def execute(notebook, cell_timeout=600, on_cell=None):
    """Run ``notebook`` (a path) top to bottom and return it with its new outputs.

    The file is not touched. ``on_cell`` is called without arguments after each cell.
    Raises nbclient's ``CellExecutionError``, ``CellTimeoutError`` (a cell ran longer
    than ``cell_timeout`` seconds) or ``DeadKernelError``.
    """
    book = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        book,
        timeout=cell_timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(Path(notebook).parent)}},
        on_cell_complete=lambda **_: on_cell() if on_cell else None,
    )
    client.execute()
    return book


def strip(book):
    """Remove what changes from run to run; return what the cells wrote to stderr."""
    book.metadata = nbformat.from_dict(METADATA)
    said = []
    for cell in book.cells:
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            said += [o.text for o in cell.outputs if o.get("name") == "stderr"]
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return "".join(said)


def write_whole(book, path):
    """Write the notebook so that ``path`` holds the old one or the new, never half."""
    nbformat.validate(book)
    path = Path(path)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            nbformat.write(book, file)
        os.chmod(draft, path.stat().st_mode)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def main(arguments=None):
    """Execute and store the notebooks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels.execute",
        description="Execute notebooks of the book and store their outputs.",
    )
    parser.add_argument(
        "notebooks",
        nargs="*",
        type=Path,
        metavar="NOTEBOOK",
        help="path of a notebook (default: every notebook of the book)",
    )
    parser.add_argument(
        "--cell-timeout",
        type=int,
        default=600,
        metavar="SECONDS",
        help="longest time one cell may take (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    paths = options.notebooks or notebooks_of_the_book()
    for path in paths:
        if path.suffix != ".ipynb" or not path.is_file():
            parser.error(f"{path} is not a notebook; give the path of an .ipynb file")

    failed = []
    for path in paths:
        cells = sum(c.cell_type == "code" for c in nbformat.read(path, 4).cells)
        with tqdm(total=cells, desc=path.stem, unit="cell") as bar:
            try:
                book = execute(path, options.cell_timeout, bar.update)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                bar.close()
                print(f"{path}: not written.\n{error}", file=sys.stderr)
                failed.append(path)
                continue
        if said := strip(book):
            print(f"{path} wrote to stderr (not stored):\n{said}", file=sys.stderr)
        write_whole(book, path)

    done = len(paths) - len(failed)
    print(f"{done} of {len(paths)} notebooks executed and written.")
    for path in failed:
        print(f"failed: {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
