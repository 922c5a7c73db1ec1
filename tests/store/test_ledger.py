"""The ledger after a killed process, a full disk, an edit by hand, or a copy of the project."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petseg.core.files import why_not
from petseg.core.textfiles import write_json
from petseg.errors import StoreError
from petseg.store.adopt import adopt
from petseg.store.before import EARLIER
from petseg.store.beginning import begin_anew
from petseg.store.chain import LEDGER, MARKER, chains_of, hash_of, read_ledger
from petseg.store.champion import champion, promote, promotions
from petseg.store.layout import MANIFEST
from petseg.store.ledger import changing
from petseg.store.prune import prune
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs
from petseg.store.verify import against_ledger
from tests.support.store import evaluate, make_run


def begin_store(root: Path, *keys: str) -> Path:
    """Make a store with a ledger and these finished runs. The first is the best and the champion."""
    for number, key in enumerate(keys):
        make_run(root, key, 0.9 - number / 10)
    promote(StoredRun.open(root / "runs" / keys[0]), force=True)
    return root / "runs"


def chain(store: Path) -> Path:
    (path,) = (store / LEDGER).glob("*.jsonl")
    return path


def damages(store: Path) -> list[str]:
    runs, broken = stored_runs(store)
    return broken + against_ledger(store, runs)


def leftovers(store: Path) -> list[Path]:
    return [*store.rglob(".*.tmp"), *store.glob(".pending.json*")]


# The audit events that count as calls; a process is killed at the nth of them.
CALLS = {"open", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.mkdir", "os.truncate", "os.scandir"}


def killed_at(call: int, command: Callable[[], object]) -> bool:
    """Run a command in a process that is killed before its nth call; return whether it was killed."""

    def run() -> None:
        left = call

        def watch(event: str, _: object) -> None:
            nonlocal left
            if event in CALLS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        command()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


COMMANDS: dict[str, Callable[[Path], object]] = {
    "prune": lambda root: prune(root / "runs", ["bb", "cc"]),
    "adopt": lambda root: adopt(root / "old.pt", root / "runs", "of before"),
    "keep": lambda root: evaluate(StoredRun.open(root / "runs/aa"), 0.7),
    "promote": lambda root: promote(StoredRun.open(root / "runs/bb"), force=True),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_store_survives_a_kill_at_any_call(
    root: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    begin_store(root, "aa", "bb", "cc")
    (root / "old.pt").write_bytes(b"no weights")
    call, killed = 0, True
    while killed:
        own = tmp_path_factory.mktemp("own") / root.name
        shutil.copytree(root, own)
        store = own / "runs"
        write_json(store / MARKER, json.loads((store / MARKER).read_text()) | {"root": str(own)})
        killed = killed_at(call, lambda own=own: COMMANDS[name](own))  # type: ignore[misc]
        with changing(store):
            pass
        assert damages(store) == [], call
        assert leftovers(store) == [], call
        COMMANDS[name](own)  # works as if nothing had happened
        assert damages(store) == [], call
        shutil.rmtree(own)
        call += 1
    assert call > 10


def test_a_full_disk_leaves_no_partial_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = begin_store(root, "aa", "bb")
    before = chain(store).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("petseg.store.ledger.os.fsync", full)
        with pytest.raises(OSError, match="no space"), changing(store) as changes:
            changes.append("promoted", run="bb")
    assert chain(store).read_bytes() == before
    assert champion(store) == "aa"
    promote(StoredRun.open(store / "bb"), force=True)
    assert champion(store) == "bb"
    assert damages(store) == []


def test_a_torn_last_line_is_named_and_dropped(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = begin_store(root, "aa", "bb")
    with chain(store).open("ab") as file:
        file.write(b'{"at": "2026')
    assert [line for line in damages(store) if "its last line is torn" in line]
    assert champion(store) == "aa"
    promote(StoredRun.open(store / "bb"), force=True)
    assert "its last line was torn, and is dropped" in capfd.readouterr().err
    assert (champion(store), damages(store)) == ("bb", [])


def edit_line(store: Path, number: int) -> None:
    lines = chain(store).read_bytes().split(b"\n")
    lines[number] = lines[number].replace(b'"by": "', b'"by": "x')
    chain(store).write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda store: edit_line(store, 1), "line 3: does not hold the hash of the line before it"),
        (lambda store: edit_line(store, -2), "line 4: was edited, it has another hash"),
        (
            lambda store: chain(store).write_bytes(chain(store).read_bytes()[:-200]),
            "1 of its 4 lines are gone",
        ),
        (lambda store: chain(store).write_bytes(b""), "4 of its 4 lines are gone"),
        (lambda store: chain(store).unlink(), "jsonl: is gone"),
        (lambda store: shutil.rmtree(store / LEDGER), "jsonl: is gone"),
        (lambda store: (store / MARKER).unlink(), "store.json: is gone"),
        (lambda store: (store / MARKER).write_text("[]"), "store.json: "),
        (lambda store: chain(store).write_bytes(b"[]\n" * 4), "line 1: "),
    ],
)
def test_a_damaged_ledger_is_named_and_can_be_begun_anew(
    root: Path, harm: Callable[[Path], object], named: str
) -> None:
    store = begin_store(root, "aa", "bb")
    harm(store)
    assert [line for line in damages(store) if named in line]
    assert len(stored_runs(store)[0]) == 2
    healed, unproved = begin_anew(store)
    assert "is begun anew" in "".join(healed)
    assert named in "".join(unproved)
    assert damages(store) == []
    assert begin_anew(store) == ([], [])
    promote(StoredRun.open(store / "bb"), force=True)
    assert champion(store) == "bb"


def test_a_new_ledger_keeps_what_the_old_one_proved(root: Path) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    evaluate(StoredRun.open(store / "bb"), 0.7)
    shutil.rmtree(store / "cc")
    shutil.rmtree(store / "bb/evaluations/e1")
    edit_line(store, 1)
    begin_anew(store)
    assert champion(store) == "aa"
    assert sorted(line.partition(": ")[0] for line in damages(store)) == [
        str(store / "bb/evaluations/e1/evaluation.json"),
        str(store / "cc" / MANIFEST),
    ]
    prune(store, ["cc"])
    assert not [line for line in damages(store) if "/cc/" in line]


def rewrite_line(path: Path, number: int, **changes: Any) -> None:
    """Edit a line of the ledger, without updating the hashes in the lines after it."""
    lines = path.read_bytes().split(b"\n")
    lines[number] = json.dumps(json.loads(lines[number]) | changes).encode()
    path.write_bytes(b"\n".join(lines))


def test_a_new_ledger_does_not_accept_an_edited_record(root: Path) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    manifest = json.loads((store / "bb" / MANIFEST).read_text())
    write_json(store / "bb" / MANIFEST, sealed(manifest | {"best": manifest["best"] | {"val_dice": 0.99}}))
    edit_line(store, 1)
    begin_anew(store)
    (damage,) = StoredRun.open(store / "bb").damages()
    assert "bb/manifest.json: is not what the ledger says; it was edited" in damage


def test_a_forged_line_is_named_and_not_used(root: Path) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    promote(StoredRun.open(store / "cc"), force=True)
    promote(StoredRun.open(store / "aa"), force=True)
    promote(StoredRun.open(store / "cc"), force=True)
    rewrite_line(chain(store), -3, run="bb")  # as if bb had been champion once
    rewrite_line(chain(store), 1, event="pruned")
    shutil.rmtree(store / "aa")
    unproved = "\n".join(begin_anew(store)[1])
    assert "is not used; it says: promoted bb" in unproved
    assert "is not used; it says: pruned" in unproved
    assert "bb" not in [promotion.key for promotion in promotions(store)]
    assert champion(store) == "cc"


@pytest.mark.parametrize("is_marked", [True, False])
def test_an_edited_last_line_is_named(root: Path, is_marked: bool) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    promote(StoredRun.open(store / "bb"), force=True)
    rewrite_line(chain(store), -2, run="cc")
    if not is_marked:
        (store / MARKER).unlink()
    found = damages(store)
    words = "is not used" if is_marked else "nothing proves this last line"
    assert [line for line in found if f"{words}; it says: promoted cc" in line]
    _, unproved = begin_anew(store)
    assert unproved == found
    assert champion(store) == ("aa" if is_marked else "cc")


def test_a_lost_run_is_named_even_if_its_line_was_edited(root: Path) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    number = [line.get("run") for line in read_ledger(store).lines].index("cc")
    rewrite_line(chain(store), number, at="2020")
    shutil.rmtree(store / "cc")
    begin_anew(store)
    assert damages(store) == [f"{store / 'cc' / MANIFEST}: is gone, and was not pruned"]


def test_a_line_added_by_hand_is_not_used(root: Path) -> None:
    store = begin_store(root, "aa", "bb")
    last = chain(store).read_bytes().splitlines()[-1]
    line = json.loads(last) | {"run": "bb", "before": hash_of(last)}
    with chain(store).open("a") as file:
        file.write(json.dumps(line) + "\n")
    assert [line for line in damages(store) if "has 1 lines more than were written" in line]
    assert champion(store) == "aa"
    with pytest.raises(StoreError, match="has 1 lines more than were written"):
        promote(StoredRun.open(store / "bb"), force=True)


def test_lines_written_during_reading_are_not_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = begin_store(root, "aa", "bb")

    def chains_after_other_writes(store: Path) -> list[Path]:
        monkeypatch.setattr("petseg.store.chain.chains_of", chains_of)
        for key in ("bb", "aa", "bb"):
            promote(StoredRun.open(store / key), force=True)
        return chains_of(store)

    monkeypatch.setattr("petseg.store.chain.chains_of", chains_after_other_writes)
    assert read_ledger(store).damages == []
    assert champion(store) == "bb"


@pytest.mark.parametrize("entry", [{"lines": -(10**12)}, {"size": 10**21}, {"lines": True}, {"last": None}])
def test_a_marker_with_odd_values_is_named(root: Path, entry: dict[str, Any]) -> None:
    store = begin_store(root, "aa", "bb")
    write_json(store / MARKER, json.loads((store / MARKER).read_text()) | entry)
    assert [line for line in damages(store) if f"{store / MARKER}: {next(iter(entry))}: " in line]
    with pytest.raises(StoreError, match=f"{MARKER}: {next(iter(entry))}: "):
        promote(StoredRun.open(store / "bb"), force=True)


def test_a_false_pending_change_does_not_seal_an_edited_record(root: Path) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    run = StoredRun.open(store / "cc")
    write_json(run.record, sealed(run.manifest | {"best": {"epoch": 1, "val_dice": 0.99}}))
    shutil.rmtree(store / "bb")
    for pending in ({"event": "finished", "run": "cc"}, {"event": "pruned", "run": "bb"}):
        write_json(store / MARKER, json.loads((store / MARKER).read_text()) | {"pending": pending})
        with changing(store):
            pass
    assert StoredRun.open(store / "cc").edit() is not None
    assert damages(store) == [f"{store / 'bb' / MANIFEST}: is gone, and was not pruned"]


def test_lines_removed_from_another_clones_ledger_are_named(root: Path) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    copied = root / "copy/runs"
    shutil.copytree(store, copied)
    promote(StoredRun.open(copied / "bb"), force=True)
    assert damages(copied) == []
    other = copied / LEDGER / chain(store).name
    whole = other.read_bytes()
    lines = whole.splitlines(keepends=True)
    shutil.rmtree(copied / "cc")
    other.write_bytes(b"".join(lines[:-1]))
    assert [line for line in damages(copied) if "1 of its 5 lines are gone" in line]
    other.unlink()
    assert [line for line in damages(copied) if f"{other}: is gone" in line]
    other.write_bytes(whole)
    assert [line for line in damages(copied) if "cc/manifest.json: is gone, and was not pruned" in line]


def test_nothing_is_pruned_while_the_ledger_is_damaged(root: Path) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    promote(StoredRun.open(store / "cc"), force=True)
    promote(StoredRun.open(store / "aa"), force=True)
    edit_line(store, -3)
    with pytest.raises(StoreError, match="was edited"):
        prune(store, ["cc"])
    assert (store / "cc").exists()


def test_a_ledger_of_a_later_petseg_is_not_changed(root: Path) -> None:
    store = begin_store(root, "aa", "bb")
    write_json(store / MARKER, json.loads((store / MARKER).read_text()) | {"format": 3})
    before = {path: path.read_bytes() for path in (store / MARKER, chain(store))}
    with pytest.raises(StoreError, match="has format 3, this petseg knows 2"):
        begin_anew(store)
    with pytest.raises(StoreError, match="has format 3, this petseg knows 2"):
        prune(store, ["bb"])
    assert {path: path.read_bytes() for path in before} == before
    assert (champion(store), len(stored_runs(store)[0])) == ("aa", 2)


def test_promotions_from_before_the_ledger_are_kept(root: Path) -> None:
    make_run(root, "aa", 0.9)
    make_run(root, "bb", 0.8)
    old = {"when": "2025-01-01T00:00:00+00:00", "val_dice": 0.9, "before": None, "forced": False, "by": "me"}
    lines = [json.dumps(old | {"key": key}) for key in ("bb", "aa")]
    (root / "runs" / EARLIER).write_text("\n".join([lines[0], "{", lines[1], lines[0][:20]]))
    assert [line.key for line in promotions(root / "runs")] == ["bb", "aa"]
    with changing(root / "runs"):
        pass
    assert [(line.key, line.when) for line in promotions(root / "runs")] == [
        (key, old["when"]) for key in ("bb", "aa")
    ]
    assert damages(root / "runs") == []


def test_a_clock_that_was_set_back_does_not_change_the_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = begin_store(root, "aa", "bb", "cc")
    monkeypatch.setattr("petseg.store.ledger.now", lambda: "2035-01-01T00:00:00+00:00")
    promote(StoredRun.open(store / "bb"), force=True)
    monkeypatch.undo()
    promote(StoredRun.open(store / "cc"), force=True)
    assert champion(store) == "cc"
    os.chdir(root)
    shutil.copytree(root, root.parent / "copy")
    copy = root.parent / "copy/runs"
    promote(StoredRun.open(copy / "aa"), force=True)
    assert (champion(copy), champion(store)) == ("aa", "cc")
    shutil.rmtree(root.parent / "copy")


def test_a_copied_store_writes_its_own_ledger_file(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = begin_store(root, "aa", "bb")
    shutil.copytree(root / "runs", root / "copy/runs")
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    copy = root / "copy/runs"
    for key in ("bb", "aa", "bb"):
        promote(StoredRun.open(copy / key), force=True)
        assert champion(copy) == key
    assert capfd.readouterr().err.count("is a copy of") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert damages(copy) == []
    store.rename(root / "elsewhere")
    (root / "moved").mkdir()
    (root / "elsewhere").rename(root / "moved/runs")
    for key in ("bb", "aa"):
        promote(StoredRun.open(root / "moved/runs" / key), force=True)
    assert capfd.readouterr().err.count("was moved here from") == 1
    assert len(list((root / "moved/runs" / LEDGER).iterdir())) == 1


def move_store(root: Path) -> Path:
    """Move the store to another folder, and return it."""
    (root / "moved").mkdir()
    return (root / "runs").rename(root / "moved/runs")


def test_lines_missing_before_a_move_are_named(root: Path) -> None:
    store = begin_store(root, "aa", "bb")
    promote(StoredRun.open(store / "bb"), force=True)
    text = chain(store).read_bytes()
    chain(store).write_bytes(text[: text[:-1].rfind(b"\n") + 1])
    store = move_store(root)
    for _ in range(2):
        with pytest.raises(StoreError, match="lines are gone"), changing(store):
            pass
        assert any("lines are gone" in line for line in damages(store))


def test_a_moved_store_with_a_torn_line_can_be_changed(root: Path) -> None:
    store = begin_store(root, "aa", "bb")
    with chain(store).open("ab") as file:
        file.write(b'{"at": ')
    store = move_store(root)
    promote(StoredRun.open(store / "bb"), force=True)
    assert damages(store) == []


def test_a_lost_marker_is_named(root: Path) -> None:
    store = begin_store(root, "aa", "bb")
    (store / MARKER).unlink()
    with pytest.raises(StoreError, match="is gone"), changing(store):
        pass
    assert any(f"{MARKER}: is gone" in line for line in damages(store))


def test_a_store_whose_original_is_unreadable_counts_as_a_copy(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = begin_store(root, "aa", "bb")
    shutil.copytree(store, root / "copy/runs")
    opened = Path.open

    def open_readable(path: Path, *options: Any, **more: Any) -> Any:
        if path == store / MARKER:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return opened(path, *options, **more)

    monkeypatch.setattr(Path, "open", open_readable)
    promote(StoredRun.open(root / "copy/runs/bb"), force=True)
    assert "is a copy of" in capfd.readouterr().err
    assert len(list((root / "copy/runs" / LEDGER).iterdir())) == 2


def test_a_killed_prune_is_completed_even_if_the_ledger_is_broken(root: Path) -> None:
    store = begin_store(root, "aa", "bb")
    marker = json.loads((store / MARKER).read_text())
    write_json(store / MARKER, marker | {"pending": {"event": "pruned", "run": "bb"}})
    (store / "bb").rename(store / ".bb.pruned.tmp")
    chain(store).write_bytes(b"broken\n" + chain(store).read_bytes())
    assert begin_anew(store)
    with changing(store):
        pass
    assert damages(store) == []


def change_much(root: Path, number: int) -> None:
    for turn in range(6):
        key = f"{number}{turn}"
        (root / f"{key}.pt").write_text(key)
        run, is_new = adopt(root / f"{key}.pt", root / "runs", "")
        assert is_new
        promote(StoredRun.open(root / "runs" / "ab"[number % 2]), force=True)
        prune(root / "runs", [run.key])


def test_concurrent_processes_lose_no_line(root: Path) -> None:
    store = begin_store(root, "a", "b")
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=change_much, args=(root, number)) for number in range(3)]
    for other in others:
        other.start()
    while any(other.is_alive() for other in others):
        with changing(store):
            assert damages(store) == []
    assert [other.exitcode for other in others] == [0, 0, 0]
    events = [line["event"] for line in read_ledger(store).lines]
    assert (events.count("adopted"), events.count("pruned")) == (18, 18)
    assert sorted(path.name for path in store.glob("[!.]*/")) == ["a", "b", LEDGER]


def test_a_store_that_cannot_be_written_gives_one_line(root: Path) -> None:
    (root / "runs").write_text("no folder")
    with pytest.raises(OSError, match="exists") as refused, changing(root / "runs"):
        pass
    assert why_not(refused.value) == f"{root / 'runs'}: File exists"
