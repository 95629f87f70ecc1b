"""The notebooks of the book: complete, run top to bottom, and nearly all checked.

What a single cell prints is nbval's matter and whether a reference resolves is the
strict build's; these tests hold what neither of them sees.
"""

import functools
import itertools
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
FILES = [TOC["root"], *(c["file"] for p in TOC["parts"] for c in p["chapters"])]
NOTEBOOKS = [f for f in FILES if (ROOT / f"{f}.ipynb").exists()]
CHAPTERS = [f for f in FILES if re.fullmatch(r"book/\d\d_\w+", f)]

NOT_COMPARED = {"nbval-ignore-output", "nbval-skip", "raises-exception"}
CLOSING = ["Summary", "Exercises", "On your own", "Further reading"]

every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS)
every_chapter = pytest.mark.parametrize("chapter", CHAPTERS)


@functools.cache
def read(chapter):
    return nbformat.read(ROOT / f"{chapter}.ipynb", as_version=4)


def code_cells(chapter):
    return [cell for cell in read(chapter).cells if cell.cell_type == "code"]


def prose(chapter):
    """All Markdown of a chapter, with its fenced program listings taken out."""
    cells = [c.source for c in read(chapter).cells if c.cell_type == "markdown"]
    return re.sub(r"(?ms)^(`{3,})\w+\n.*?^\1$", "", "\n\n".join(cells))


def text_of(file):
    """The Markdown of any page of the book."""
    path = ROOT / f"{file}.md"
    return path.read_text(encoding="utf-8") if path.exists() else prose(file)


def is_figure(output):
    return "image/png" in output.get("data", {})


def draws(cell):
    """How many figures the cell shows."""
    return sum(map(is_figure, cell.outputs))


def tags(cell):
    return set(cell.metadata.get("tags", []))


# ---- The table of contents ----


def test_every_page_is_in_the_table_of_contents():
    pages = [p for p in BOOK.iterdir() if p.suffix in (".ipynb", ".md")]
    on_disk = {f"book/{page.stem}" for page in pages}
    assert on_disk == set(FILES)


def test_the_book_has_chapters():
    assert len(CHAPTERS) >= 6


# ---- What was stored ----


@every_notebook
def test_notebook_is_valid(notebook):
    nbformat.validate(read(notebook))


@every_notebook
def test_cells_ran_once_from_top_to_bottom(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_no_stored_error_or_warning(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", cell.source


@every_notebook
def test_metadata_holds_nothing_that_changes_from_run_to_run(notebook):
    assert set(read(notebook).metadata) <= {"kernelspec", "language_info"}
    assert set(read(notebook).metadata.language_info) == {"name"}
    for cell in read(notebook).cells:
        assert set(cell.metadata) <= {"mystnb", "tags"}, cell.source


# ---- What nbval compares ----


@every_notebook
def test_most_cells_with_output_are_compared(notebook):
    shown = [c for c in code_cells(notebook) if not all(map(is_figure, c.outputs))]
    compared = [cell for cell in shown if not tags(cell) & NOT_COMPARED]
    assert shown
    assert len(compared) >= 0.85 * len(shown)


@every_notebook
def test_unchecked_cells_say_why(notebook):
    for cell in code_cells(notebook):
        if tags(cell) & NOT_COMPARED:
            assert re.search(r"(?m)^# Not checked: \w+", cell.source), cell.source


@every_notebook
def test_no_cell_hides_its_value_or_its_check(notebook):
    for cell in code_cells(notebook):
        assert not cell.source.rstrip().endswith(";"), cell.source
        assert not re.search(r"(?i)nbval.(ignore|skip)", cell.source), cell.source
        assert not tags(cell) & {"remove-cell", "remove-output"}, cell.source


# ---- How a chapter is laid out ----


@every_notebook
def test_code_fits_the_page(notebook):
    for cell in code_cells(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= 30, cell.source
        assert [line for line in lines if len(line) > 79] == []


@every_notebook
def test_printed_text_fits_the_page(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            text = output.get("text", output.get("data", {}).get("text/plain", ""))
            assert [line for line in text.splitlines() if len(line) > 79] == []


@every_chapter
def test_first_cell_is_the_same_everywhere(chapter):
    first = code_cells(chapter)[0].source
    assert first == code_cells(CHAPTERS[0])[0].source
    assert "import kernels" in first
    assert "triton" not in first.split("import kernels")[0]


@every_notebook
def test_prose_between_cells(notebook):
    kinds = [cell.cell_type for cell in read(notebook).cells]
    neighbours = sum(pair == ("code", "code") for pair in itertools.pairwise(kinds))
    assert neighbours <= 3


@every_chapter
def test_chapter_opens_and_closes_like_the_others(chapter):
    text = prose(chapter)
    titles = re.findall(r"(?m)^# (.+)$", text)
    assert len(titles) == 1 and not titles[0][0].isdigit()
    opening, first_section = text.split("\n## ", 1)
    assert "{admonition} In this chapter" in opening
    for promise in ("You will do", "You will learn", "You need"):
        assert re.search(rf"\*\*{promise}\.?\*\*", opening)
    sections = re.findall(r"(?m)^## (.+)$", f"## {first_section}")
    assert sections[-len(CLOSING) :] == CLOSING


@every_notebook
def test_figures_are_described(notebook):
    for cell in filter(draws, code_cells(notebook)):
        shown = [output for output in cell.outputs if "data" in output]
        assert len(shown) == 1, f"shows more than its figure: {cell.source}"
        mystnb = cell.metadata.get("mystnb", {})
        alt = mystnb.get("image", {}).get("alt", "")
        assert len(alt.split()) >= 5, f"no alt text that describes: {cell.source}"
        assert mystnb.get("figure", {}).get("caption"), f"no caption: {cell.source}"


@every_chapter
def test_chapter_draws_figures(chapter):
    assert sum(map(draws, code_cells(chapter))) >= 2


@every_chapter
def test_exercises_have_folded_solutions(chapter):
    text = prose(chapter)
    exercises = re.findall(
        r"(?m)^[`:]{3,}\{exercise(?:-start)?\}[^\n]*\n(?::[^\n]*\n)*?:label: (\S+)",
        text,
    )
    solutions = re.findall(
        r"(?m)^[`:]{3,}\{solution(?:-start)?\} (\S+)\n((?::[^\n]*\n)+)", text
    )
    assert len(exercises) >= 2
    assert sorted(exercises) == sorted(exercise for exercise, _ in solutions)
    for exercise, options in solutions:
        assert re.search(r"(?m)^:class:.*\bdropdown\b", options), exercise


@every_chapter
def test_chapter_boxes_its_takeaways(chapter):
    assert prose(chapter).count("{admonition} Takeaway") >= 2


# ---- What a page refers to ----


@pytest.fixture(scope="module")
def bibliography():
    entries = (BOOK / "references.bib").read_text(encoding="utf-8")
    return re.findall(r"(?m)^@\w+\{([^,\s]+),", entries)


def test_bibliography_has_no_entry_twice(bibliography):
    assert len(bibliography) == len(set(bibliography))


@pytest.mark.parametrize("file", FILES)
def test_citations_exist(file, bibliography):
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text_of(file))
    keys = {key.strip() for keys in cited for key in keys.split(",")}
    assert keys <= set(bibliography)


@pytest.mark.parametrize("file", FILES)
def test_linked_chapters_exist(file):
    for target in re.findall(r"\{doc\}`([^`]+)`", text_of(file)):
        name = re.sub(r"^.*<(.+)>$", r"\1", target).lstrip("/")
        assert f"book/{name.removeprefix('book/')}" in FILES


@pytest.fixture(scope="module")
def labels():
    """Every label that a page of the book defines."""
    patterns = (
        r"(?m)^:(?:label|name): (\S+)\s*$",
        r"(?m)^\$\$ \(([\w-]+)\)\s*$",
        r"(?m)^\(([\w:-]+)\)=\s*$",
        r"\\label\{([\w:-]+)\}",
    )
    found = [
        m for file in FILES for p in patterns for m in re.findall(p, text_of(file))
    ]
    for notebook in NOTEBOOKS:
        for cell in code_cells(notebook):
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            found += [name] if name else []
    return found


def test_no_label_is_defined_twice(labels):
    assert sorted(set(labels)) == sorted(labels)


@pytest.mark.parametrize("file", FILES)
def test_referred_labels_exist(file, labels):
    roles = r"\{(?:eq|numref|ref|prf:ref)\}`([^`]+)`"
    for target in re.findall(roles, text_of(file)):
        assert re.sub(r"^.*<(.+)>$", r"\1", target) in labels


def test_readme_and_introduction_give_the_same_commands():
    def commands(path):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        return [x.split() for x in re.findall(r"(?ms)^```bash\n(.*?)^```", text)]

    readme = commands(ROOT / "README.md")
    assert ".venv/bin/jupyter-book" in readme[0] and ".venv/bin/pytest" in readme[1]
    assert commands(BOOK / "intro.md")[:2] == readme[:2]
