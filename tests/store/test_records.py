"""Records with odd values: each gives one line, and the other runs can be read."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from petseg.core.checked import parsed
from petseg.errors import BrokenRecord, PetsegError, StoreError
from petseg.models.weights import save_tensors
from petseg.report.latest import latest
from petseg.store.adopt import adopt
from petseg.store.card import card
from petseg.store.chain import LEDGER, MARKER
from petseg.store.champion import promote, promotions
from petseg.store.layout import CHECKPOINTS, HISTORY, MANIFEST
from petseg.store.ledger import changing
from petseg.store.prune import why_kept
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs
from petseg.store.verify import against_ledger
from petseg.store.writer import open_run
from petseg.training.history import EpochRecord
from tests.support.store import evaluate, make_run, petseg

GONE = ""  # removes the key; the other texts replace its value
VALUES = [
    *("null", "[]", "{}", '"x"', '""', "-1", "true", "0.5", "1e400", "1" + "0" * 400, "NaN", GONE),
    *('"\\ud800"', '"\\u0000"', '"../../x"', '"/x"', "[" * 600 + "]" * 600, "[" * 10**5),
]


@pytest.mark.parametrize("value", [*VALUES, "\xff", "{", "nul"], ids=lambda value: value[:8] or "empty")
def test_a_parsed_record_can_be_written(value: str) -> None:
    try:
        record = parsed(value.encode("latin-1"), "here")
    except BrokenRecord as error:
        assert str(error).startswith("here: is no JSON")  # noqa: PT017
        assert len(str(error)) < 200  # noqa: PT017
    else:
        json.dumps(record, allow_nan=False, ensure_ascii=False).encode()


@pytest.fixture
def store(root: Path) -> Path:
    """A store with a finished run and its evaluation, a run in training, adopted weights and a champion."""
    run = make_run(root, "aa", 0.9)
    make_run(root, "cc", 0.5, status="running")
    champion = make_run(root, "bb", 0.8)
    evaluate(run, 0.7)
    (root / "old.pt").write_bytes(b"no weights")
    adopt(root / "old.pt", root / "runs", "of before")
    promote(champion, force=True)
    return root / "runs"


def places(record: Any, *above: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of each key of a record, at every level."""
    for key, value in record.items() if isinstance(record, dict) else ():
        yield (*above, key)
        yield from places(value, *above, key)


def with_value(text: str, place: tuple[str, ...], value: str, seals: bool) -> str:
    """Return a record with another value at one place."""
    record = json.loads(text)
    holder = record
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = json.loads(value) if seals and value in VALUES[:8] else "@"
    if value == GONE:
        del holder[place[-1]]
    return json.dumps(sealed(record) if seals else record).replace('"@"', value)


def use(store: Path) -> None:
    """Read the store in every way. Only petseg's own errors may be raised, each with one line."""
    runs, broken = stored_runs(store)
    for line in [*broken, *against_ledger(store, runs)]:
        line.encode()
        assert "\n" not in line
    assert "bb" in [run.key for run in runs]
    commands: list[Callable[[], object]] = [lambda: latest(store.parent)]
    for run in filter(lambda run: run.finished, runs):
        list(run.damages())
        commands.append(lambda run=run: card(run).encode())  # type: ignore[misc]
    for command in commands:
        try:
            command()
        except PetsegError as error:
            assert "\n" not in str(error)  # noqa: PT017
    why_kept(store)
    promotions(store)
    assert "bb" in petseg("runs", "list")


ADOPTED = f"[0-9a-f]*[0-9a-f]/{MANIFEST}"  # the adopted run has the longest name
RECORDS = [f"aa/{MANIFEST}", f"cc/{MANIFEST}", ADOPTED, f"aa/{HISTORY}", MARKER, f"{LEDGER}/*"]
RECORDS += [f"aa/evaluations/e1/{name}.json" for name in ("evaluation", "test")]


@pytest.mark.parametrize("name", RECORDS)
def test_an_odd_value_in_a_record_does_not_affect_other_runs(store: Path, name: str) -> None:
    path = max(store.glob(name), key=lambda path: len(str(path)))
    path.chmod(0o644)
    whole = path.read_text()
    lines = [whole] if path.suffix == ".json" else whole.splitlines()
    turn = 0
    for number, line in enumerate(lines):
        for place in places(json.loads(line)):
            value = VALUES[7 * turn % len(VALUES)]  # another one at each place
            changed = with_value(line, place, value, seals=turn % 2 == 0)
            path.write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]) + "\n")
            use(store)
            turn += 1
    path.write_text(whole)
    assert turn >= 3
    with changing(store):
        pass


@pytest.mark.parametrize("what", ["folder", "pipe", "a gigabyte"])
@pytest.mark.parametrize("name", RECORDS)
def test_an_irregular_or_huge_record_does_not_affect_other_runs(store: Path, name: str, what: str) -> None:
    path = max(store.glob(name), key=lambda path: len(str(path)))
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 30)
    use(store)


def test_a_ledger_that_has_grown_by_a_gigabyte_is_named_and_not_read(store: Path) -> None:
    (chain,) = store.glob(f"{LEDGER}/*")
    os.truncate(chain, 1 << 30)
    assert any(
        f"{chain}: has 1,073,741,824 bytes, more than 67,108,864" in line
        for line in against_ledger(store, [])
    )
    with pytest.raises(StoreError, match=r"has far more than its \d+ lines"), changing(store):
        pass
    assert chain.stat().st_size == 1 << 30


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"record": 5}, "about.record: Input should be a valid dictionary"),
        ({"history": "all"}, "history: Input should be a valid list"),
        ({"history": [{"epoch": 1}]}, "history.0.val_dice: Field required"),
        ({"record": {"epoch": 1, "val_dice": 0.5, "elapsed_s": 1.0}}, "is no history of a training"),
    ],
)
def test_a_checkpoint_with_odd_metadata_is_moved_aside(
    root: Path, changes: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "a" * 16
    record = EpochRecord(1, 32, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 1.0, 1.0)
    about = {"run_key": key, "record": asdict(record), "history": []}
    with open_run(root / "runs", key, description()) as run:
        for epoch, changed in ((1, {}), (2, changes)):
            path = run.folder / CHECKPOINTS / f"epoch-{epoch:05}.safetensors"
            save_tensors(path, {"w": torch.zeros(1)}, about | changed)
        assert [path.name for path in run._whole_checkpoints()] == ["epoch-00001.safetensors"]
        assert reason in capsys.readouterr().out
        assert path.with_suffix(".damaged").exists()


def description() -> dict[str, Any]:
    """The manifest of a training that begins."""
    return {"params": {}, "data_sha256": "d", "environment": {}, "git": {"commit": None, "dirty": False}}


def test_a_pending_change_with_odd_values_is_completed_or_named(store: Path) -> None:
    made = {"run": "aa", "kind": "evaluations", "key": "e1", "file": HISTORY, "sha256": "0"}
    for event in ("finished", "adopted", "added", "pruned", "healed", "set aside", "unknown"):
        text = json.dumps({"event": event, **made})
        for place in places(json.loads(text)):
            for value in VALUES:
                before = (store / MARKER).read_text()
                begun = with_value(text, place, value, seals=False)
                (store / MARKER).write_text(f'{before.rstrip()[:-1]}, "pending": {begun}}}')
                try:
                    with changing(store):
                        pass
                except StoreError as error:
                    (store / MARKER).write_text(before if f"{MARKER}: " in str(error) else "{")
                assert "pending" not in json.loads((store / MARKER).read_text())
    assert StoredRun.open(store / "aa").finished
