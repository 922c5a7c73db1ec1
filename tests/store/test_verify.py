"""The damages of a store that verify names. A change by another process is none."""

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.store.adopt import adopt
from petseg.store.chain import MARKER, read_ledger
from petseg.store.champion import promote
from petseg.store.heal import Copy
from petseg.store.layout import ABOUT, MANIFEST, WEIGHTS
from petseg.store.prune import prune
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from petseg.store.verify import verify
from tests.support.store import evaluate, flip, make_run, petseg


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs, each with an evaluation. One is the champion. DVC has no cache here."""
    monkeypatch.setattr("petseg.store.verify._verify_dvc", lambda *_: [])  # DVC takes a second
    for run in [make_run(root, key) for key in ("aa", "bb", "dd")]:
        evaluate(run, 0.7)
    promote(StoredRun.open(root / "runs/aa"), force=True)
    return root / "runs"


def nothing(runs: Sequence[StoredRun]) -> Iterator[Copy]:
    yield from ()


def damages(store: Path) -> list[str]:
    return verify(store.parent, None, nothing).damages


def edit(path: Path, seals: bool) -> None:
    record = json.loads(path.read_text()) | {"data_sha256": "another"}
    record.pop("sha256")
    path.chmod(0o644)
    write_json(path, sealed(record) if seals else record)


EVALUATION = "bb/evaluations/e1/evaluation.json"


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda store: shutil.rmtree(store / "bb"), "bb/manifest.json: is gone, and was not pruned"),
        (lambda store: (store / "bb" / MANIFEST).unlink(), "bb/manifest.json: is gone, and was not pruned"),
        (lambda store: shutil.rmtree(store / "aa"), "runs/aa: is the champion by the ledger"),
        (lambda store: shutil.rmtree(store / "bb/evaluations"), "evaluation.json: is gone, and was not"),
        (lambda store: (store / EVALUATION).unlink(), "evaluation.json: is gone, and was not pruned"),
        (lambda store: (store / EVALUATION).write_text("{}"), "evaluation.json: created: Field required"),
        (lambda store: edit(store / "bb" / MANIFEST, seals=True), "manifest.json: is not what the ledger"),
        (lambda store: edit(store / "bb" / MANIFEST, seals=False), "manifest.json: is not what the ledger"),
        (lambda store: edit(store / EVALUATION, seals=True), "evaluation.json: is not what the ledger"),
        (lambda store: edit(store / EVALUATION, seals=False), "evaluation.json: is not what the ledger"),
        (lambda store: shutil.copytree(store / "bb", store / "cc"), "cc: the ledger does not know it"),
        (lambda store: (store / "bb" / ABOUT).unlink(), "bb/model.json: is gone"),
        (lambda store: (store / "bb/evaluations/e1/more.csv").write_text(""), "more.csv: no record names it"),
        (lambda store: (store / "bb" / MANIFEST).write_text("null"), "bb/manifest.json: is no record"),
    ],
)
def test_absent_and_edited_files_are_named(store: Path, harm: Callable[[Path], object], named: str) -> None:
    assert damages(store) == []
    harm(store)
    flip(store / "dd/history.jsonl")  # must be found too
    found = damages(store)
    assert [line for line in found if named in line], found
    assert [line for line in found if "history.jsonl: differs" in line]


def test_a_pruned_run_is_not_reported_as_gone(store: Path) -> None:
    prune(store, ["bb"])
    assert damages(store) == []


@pytest.mark.parametrize("harm", [lambda run: (run / MANIFEST).write_text("["), shutil.rmtree])
def test_a_lost_or_broken_run_can_be_pruned_by_its_key(store: Path, harm: Callable[[Path], object]) -> None:
    harm(store / "bb")
    assert len(damages(store)) == 1
    if (store / "bb").exists():
        printed = petseg("runs", "prune", "bb", "--yes", fails=True)
        assert "bb can't be verified" in printed
        assert "--force deletes it all the same" in printed
    assert "deleted 1 run" in petseg("runs", "prune", "bb", "--yes", "--force")
    assert damages(store) == []
    assert "no such run" in petseg("runs", "prune", "bb", "--yes", fails=True)


def test_the_lost_champion_is_pruned_once_there_is_another(store: Path) -> None:
    shutil.rmtree(store / "aa")
    assert "is the champion" in petseg("runs", "prune", "aa", "--yes", fails=True)
    promote(StoredRun.open(store / "bb"), force=True)
    petseg("runs", "prune", "aa", "--yes")
    assert damages(store) == []


def test_an_unreadable_file_is_named_and_the_others_are_checked(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if path.name == WEIGHTS and path.parent.name == "aa":
            raise OSError(5, "Input/output error", str(path))
        return sha256_file(path)

    monkeypatch.setattr("petseg.store.records.sha256_file", read)
    flip(store / "bb" / ABOUT)
    found = damages(store)
    assert [line for line in found if "aa/model.safetensors: Input/output error" in line]
    assert [line for line in found if "bb/model.json: differs" in line]
    assert len(found) == 2


def test_a_change_of_a_killed_process_is_completed_and_named(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = json.loads((store / MARKER).read_text())
    write_json(store / MARKER, marker | {"pending": {"event": "pruned", "run": "bb"}})
    (store / "bb").rename(store / ".bb.pruned.tmp")
    assert damages(store) == []
    printed = capfd.readouterr().err
    assert "run bb pruned" in printed
    assert ".bb.pruned.tmp: was left half done" in printed
    assert not (store / ".bb.pruned.tmp").exists()


def change_much(root: Path) -> None:
    for turn in range(12):
        (root / "w.pt").write_text(str(turn))
        run, _ = adopt(root / "w.pt", root / "runs", "")
        evaluate(StoredRun.open(root / "runs/bb"), turn / 20, f"f{turn}")
        prune(root / "runs", [run.key])


@pytest.mark.parametrize("look", [damages, lambda store: read_ledger(store).damages])
def test_a_change_by_another_process_is_not_damage(store: Path, look: Callable[[Path], list[str]]) -> None:
    other = multiprocessing.get_context("fork").Process(target=change_much, args=(store.parent,))
    other.start()
    found = []
    while other.is_alive():
        found += look(store)
    assert (other.exitcode, found) == (0, [])
