"""The pages agree with the code: params, commands, links, and every message that is printed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import petseg.errors
from docs.generate import PAGES, params_page
from petseg.core.textfiles import read_yaml
from petseg.models.masking import HOLE, ISLAND
from petseg.params import Params, load_params
from tests.support import ROOT

DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
SOURCES = sorted([*(ROOT / "petseg").rglob("*.py"), *(ROOT / "stages").rglob("*.py")])
SHOWN = {
    name
    for name, value in vars(petseg.errors).items()
    if isinstance(value, type) and issubclass(value, petseg.errors.PetsegError | petseg.errors.BadImage)
} | {"Refused"}  # answered by the servers
FIRST_WORDS = ("warning: ", "note: ", "petseg: ", "petseg ")
FEWEST_LETTERS = 4  # that a fragment needs so that people can search for it


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_is_up_to_date(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "make docs writes it anew"


def test_every_param_is_listed_with_default_range_and_description() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` (\|.*)$", params_page(ROOT), re.MULTILINE))
    values = read_yaml(ROOT / "params.yaml")
    keys = [f"{name}.{key}" for name, section in values.items() for key in section]
    assert list(rows) == keys
    for key, row in rows.items():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4, key
        assert all(cells), key


def test_the_params_page_follows_params_yaml_and_the_types(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (tmp_path / "params.yaml").write_text(text.replace("epochs: 50 ", "epochs: 51 "))
    load_params(tmp_path / "params.yaml")
    assert "| `train.epochs` | 51 | from 1 |" in params_page(tmp_path)
    losses = ", ".join(Params.model_json_schema()["$defs"]["TrainParams"]["properties"]["loss"]["enum"])
    assert f"| `train.loss` | bce_dice | {losses} | focal has gamma 2" in params_page(tmp_path)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = without_code(page.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for link in (one or other for one, other in links):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if f"]({page.name})" not in index] == ["README.md"]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_message_that_is_printed_is_explained() -> None:
    page = " ".join((DOCS / "troubleshooting.md").read_text().replace("\\|", "|").split())
    messages = [(file, line, text) for file in SOURCES for line, text in messages_of(file.read_text())]
    assert len(messages) > 150
    missing = [
        f"{file.relative_to(ROOT)}:{line}: {text}" for file, line, text in messages if text not in page
    ]
    assert missing == []


def test_every_message_of_the_demo_page_is_explained() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    script = (ROOT / "petseg/predict/demo/page.js").read_text()
    messages = re.findall(r"(?:new Error\(|return |\?\? )[\"`]([^\"`$]+)", script)
    assert len(messages) == 5
    assert [text for text in messages if text not in page] == []


def test_a_message_is_found_by_its_longest_constant_text() -> None:
    code = """
raise DataError(f"{path}: holds {n} photos, none of them upright; " "turn them")
raise petseg.StoreError("gone for good")
raise ValueError("a bug")
raise DataError(str(error))
print(f"warning: {what} is odd", file=sys.stderr)
print("all is well")
"""
    found = [text for _, text in messages_of(code)]
    assert found == ["photos, none of them upright; turn them", "gone for good", "warning:"]


def messages_of(code: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the longest constant text of each error and warning that the code can show."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) as call if name in SHOWN:
                pass
            case ast.Call(func=ast.Name(id="print" | "_exit" | "SystemExit")) as call:
                if not any(text.startswith(FIRST_WORDS) for text in literals(call)):
                    continue
            case _:
                continue
        words = max((" ".join(text.split()) for text in literals(call)), key=len, default="")
        if sum(letter.isalpha() for letter in words) >= FEWEST_LETTERS:
            yield node.lineno, words


def literals(node: ast.AST) -> Iterator[str]:
    """Yield the texts in a call, except those in the braces of an f-string."""
    match node:
        case ast.FormattedValue():
            return
        case ast.Constant(value=str(text)):
            yield from re.split(r"\{\}", text)  # filled in by str.format
        case _:
            for inner in ast.iter_child_nodes(node):
                yield from literals(inner)


def test_pages_state_the_limits_of_cleaning() -> None:
    for page in ("how-it-works.md", "scores.md"):
        text = (ROOT / "docs" / page).read_text()
        assert all(f"than {share * 100:g} %" in text for share in (ISLAND, HOLE)), page


def test_no_figure_is_still_to_be_filled_in() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert not re.findall(r"\b[A-Z]+_(?:DICE|TIME)\b", page.read_text()), page
