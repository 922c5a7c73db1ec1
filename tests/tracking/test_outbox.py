"""Odd values in entries for MLflow and in the decision of a logged model: each gives one line."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from petseg.core.textfiles import write_json
from petseg.errors import BrokenRecord, DamagedFile
from petseg.store.layout import ABOUT, WEIGHTS
from petseg.tracking.outbox import DataRecord, Entry
from tests.support.runs import make_run

DATA = vars(DataRecord("preprocess", {"split.seed": 0}, datasets=[("pets", "0" * 64, "here")]))


def test_an_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    for name, content in (("data-1", DATA), ("aa", {"uid": "ab", "status": "FAILED", "ended": "2026"})):
        entry = Entry(tmp_path / name)
        entry.write(content)
        assert entry.read() == json.loads(json.dumps(content))
    assert DataRecord(**Entry(tmp_path / "data-1").read()).params == {"split.seed": 0}


def test_an_entry_of_a_killed_writer_is_empty(tmp_path: Path) -> None:
    for text in ("", json.dumps(DATA)[:40]):
        (tmp_path / "data-1").write_text(text)
        assert Entry(tmp_path / "data-1").read() == {}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("aa", [], "Input should be a valid dictionary"),
        ("aa", {"status": "FAILED"}, "uid: Field required"),
        ("aa", {"uid": 3}, "uid: Input should be a valid string"),
        ("aa", {"uid": "ab", "ended": None}, "ended: Input should be a valid string"),
        ("data-1", DATA | {"params": "all"}, "params: Input should be a valid dictionary"),
        ("data-1", DATA | {"metrics": {"kept": "3"}}, "metrics.kept: Input should be a valid number"),
        ("data-1", DATA | {"datasets": [["pets", "0"]]}, "datasets.0: List should have at least 3 items"),
        ("data-1", DATA | {"texts": {"a": 1}}, "texts.a: Input should be a valid string"),
        ("data-1", DATA | {"later": 1}, "later: Extra inputs are not permitted"),
    ],
)
def test_an_entry_with_odd_values_is_named(tmp_path: Path, name: str, content: object, reason: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(content))
    with pytest.raises(BrokenRecord) as refused:
        Entry(path).read()
    assert str(refused.value).startswith(f"{path}: {reason}")


BOTH = {"whole": 0.5, "tight": 0.4}
ODD_DECISIONS: dict[str, object] = {
    "Input should be a valid dictionary": [],
    "thresholds: Field required": {"flip_average": True},
    "thresholds.tight: Field required": {"thresholds": {"whole": 0.5}, "flip_average": True},
    "thresholds.whole: Input should be a valid number": {"thresholds": BOTH | {"whole": "0.5"}},
    "thresholds.whole: Input should be less than": {"thresholds": BOTH | {"whole": 5}},
    "flip_average: Input should be a valid boolean": {"thresholds": BOTH, "flip_average": 1},
}


@pytest.mark.parametrize("reason", ODD_DECISIONS)
def test_an_odd_decision_is_named(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "decision.json"
    write_json(path, ODD_DECISIONS[reason])
    assert reason in refusal(tmp_path, path)


@pytest.mark.parametrize("put", [Path.mkdir, lambda path: path.write_bytes(b"\xff"), lambda path: None])
def test_an_unreadable_decision_is_named(tmp_path: Path, put: Callable[[Path], object]) -> None:
    put(tmp_path / "decision.json")
    refusal(tmp_path, tmp_path / "decision.json")


def refusal(folder: Path, decision: Path) -> str:
    """Load a model that is intact except for its decision, and return the line that refuses it."""
    from petseg.tracking.pyfunc import PetSegmenter

    run = make_run(folder / "run", "unet")
    files = {"decision": decision, "weights": run.folder / WEIGHTS, "about": run.folder / ABOUT}
    context = SimpleNamespace(artifacts={name: str(path) for name, path in files.items()})
    with pytest.raises(DamagedFile) as refused:
        PetSegmenter().load_context(context)
    line = str(refused.value)
    assert line.startswith(f"{decision}: holds no decision of infer's (")
    assert "\n" not in line
    return line
