"""I/O errors are not damage: an unreadable file may be intact, and a change without its line is undone."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petseg.core.files import sha256_file
from petseg.models.weights import save_tensors
from petseg.store.adopt import adopt
from petseg.store.identify import Weights, runs_of
from petseg.store.layout import MANIFEST, WEIGHTS
from petseg.store.ledger import Changes
from petseg.store.prune import check_prunable, prune
from petseg.store.run import StoredRun
from petseg.store.runs import holder_of, stored_runs
from petseg.store.verify import against_ledger
from tests.support.store import evaluate, make_run


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A function that makes the system refuse to read a file."""
    opened, refused = os.open, set[Path]()

    def open_readable(path: Any, *options: Any, **more: Any) -> int:
        if path in refused:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, *options, **more)

    monkeypatch.setattr(os, "open", open_readable)
    return refused.add


def test_a_lookup_fails_while_a_run_is_unreadable(root: Path, unreadable: Callable[[Path], None]) -> None:
    store, one, other = root / "runs", make_run(root, "aa", 0.7), make_run(root, "bb", 0.8)
    unreadable(other.record)
    held = holder_of(store, one.folder / WEIGHTS)
    assert held is not None
    assert held.key == "aa"
    for lookup in (
        lambda: holder_of(store, other.folder / WEIGHTS),
        lambda: runs_of(Weights.read(other.folder / WEIGHTS), store),
        lambda: adopt(other.folder / WEIGHTS, store, ""),
        lambda: check_prunable(store, ["aa"]),  # it may be the best run
    ):
        with pytest.raises(OSError, match=f"bb/{MANIFEST}"):
            lookup()
    assert len(list(store.glob("[!.]*/manifest.json"))) == 2


def test_unreadable_scores_are_an_error(root: Path, unreadable: Callable[[Path], None]) -> None:
    run = evaluate(make_run(root, "aa"), 0.7)
    unreadable(run.folder / "evaluations/e1/test.json")
    with pytest.raises(OSError, match=r"test\.json"):
        StoredRun.open(run.folder).proved_evaluation()


def test_scores_that_were_edited_are_named_and_not_used(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluate(evaluate(make_run(root, "aa"), 0.7, "e1"), 0.8, "e2")
    newest = run.proved_evaluation()
    assert newest is not None
    assert newest.key == "e2"
    path = newest.folder / "test.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"threshold": 0.5', '"threshold": 0.9'))
    used = StoredRun.open(run.folder).proved_evaluation()
    assert used is not None
    assert used.key == "e1"
    assert f"warning: {path}: differs from its recorded hash" in capsys.readouterr().err


def content(store: Path) -> dict[str, str]:
    """The hashes of all files of a store, except its lock and its marker."""
    files = (path for path in store.rglob("*") if path.is_file() and path.name not in (".lock", "store.json"))
    return {str(path.relative_to(store)): sha256_file(path) for path in files}


def adopt_new(root: Path) -> object:
    save_tensors(root / "new.safetensors", {"w": torch.zeros(3)}, {})
    return adopt(root / "new.safetensors", root / "runs", "")


def score_again(root: Path) -> object:
    return evaluate(StoredRun.open(root / "runs/bb"), 0.7, "e2")


@pytest.mark.parametrize(
    ("change", "record"),
    [
        (adopt_new, None),
        (lambda root: prune(root / "runs", ["aa"]), None),
        (score_again, None),
        (score_again, "{"),  # this record is set aside
    ],
)
def test_a_change_whose_line_cannot_be_written_is_undone(
    root: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], record: str | None
) -> None:
    store = root / "runs"
    make_run(root, "aa", 0.7)
    evaluate(make_run(root, "bb", 0.8), 0.7)
    if record is not None:
        evaluate(StoredRun.open(store / "bb"), 0.7, "e2")
        (store / "bb/evaluations/e2/evaluation.json").write_text(record)
    before = content(store)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "the ledger")

    with monkeypatch.context() as patch:
        patch.setattr(Changes, "append", refused)
        with pytest.raises(OSError, match="the ledger"):
            change(root)
    assert content(store) == before
    change(root)
    runs, broken = stored_runs(store)
    assert broken == against_ledger(store, runs) == []
