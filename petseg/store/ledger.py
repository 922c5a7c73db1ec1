"""The ledger: one line for each change of the store, each with the hash of the line before it.

``runs/ledger/<clone>.jsonl``  the lines of one clone of the project, appended under ``runs/.lock``
``runs/store.json``            the marker: that the store has a ledger, how long it is, where the store lies,
                               and a change that has begun: the next one ends it if its process was killed

So the store knows what it has ever finished, and ``petseg runs verify`` names what is absent or was edited.
"""

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from petseg.core.files import naming, read_file, remove_leftovers, why_not, written_atomically
from petseg.core.locks import held
from petseg.core.project import now, user
from petseg.core.textfiles import write_json
from petseg.errors import BrokenRecord, StoreError
from petseg.store.before import earlier_promotions, found, names_clone
from petseg.store.chain import (
    BEGAN,
    LEDGER,
    MARKER,
    PROMOTED,
    STORE_FORMAT,
    WAY_OUT,
    against_marker,
    chains_of,
    hash_of,
    last_of,
    read_chain,
    read_ledger,
    read_marker,
)
from petseg.store.layout import free
from petseg.store.pending import what_was_made
from petseg.store.records import read_record
from petseg.store.typed import Marker, Pending

LOCK = ".lock"
_TAIL_BYTES = 1 << 16  # in which the last line lies


@dataclass
class Changes:
    """The right to change a store, which one process at a time has. Made by ``changing``."""

    store: Path
    marker: Marker
    last: bytes
    ended: list[str] = field(default_factory=list)

    @property
    def clone(self) -> str:
        """The name of this clone's part of the ledger."""
        return self.marker["clone"]

    @property
    def chain(self) -> Path:
        return self.store / LEDGER / f"{self.clone}.jsonl"

    @contextmanager
    def noting(
        self, event: str, run: str, undo: Callable[[], object] | None = None, **more: str
    ) -> Iterator[None]:
        """Make a change, and write its line into the ledger once it is made.

        Args:
            event: what is done.
            run: to which run.
            undo: takes the change back if its line can't be written; None: the next process writes the line.
            more: to which addition or file of it.
        """
        pending = cast(Pending, {"event": event, "run": run, **more})
        self.marker["pending"] = pending
        write_json(self.store / MARKER, self.marker)
        try:
            yield
        except BaseException:
            with suppress(OSError, StoreError):  # else the next process ends it
                self._end(pending)
            raise
        try:
            self._end(pending)
        except OSError:
            with suppress(OSError):  # else the next process ends it
                if undo is not None:
                    undo()
                    self._forget_pending()
            raise

    def append(self, event: str, **more: Any) -> None:
        """Write a line into the ledger, and wait until the disk has it."""
        line = {"at": now(), "by": user(), "event": event, **more, "before": hash_of(self.last)}
        text = json.dumps(line).encode()
        with naming(self.chain), self.chain.open("r+b", buffering=0) as file:
            end, rest = file.seek(0, os.SEEK_END), text + b"\n"
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):  # else the next change of the store drops it
                    file.truncate(end)
                raise
        self.last = text
        self.marker |= {
            "lines": self.marker["lines"] + 1,
            "last": hash_of(text),
            "size": end + len(text) + 1,
        }
        self._forget_pending()

    def end_pending(self, is_logged: bool) -> None:
        """End the change of a process that was killed.

        Args:
            is_logged: whether the ledger has its line.
        """
        if (pending := self.marker.get("pending")) is None:
            return
        self.ended += _removed(self.store / pending["run"], deep=True)
        if is_logged:
            self._forget_pending()
        elif self._end(pending):
            self.ended.append(f"run {pending['run']} {pending['event']}")

    def _end(self, pending: Pending) -> bool:
        """Write a change's line, if it was made, and forget that it had begun.

        Returns:
            Whether the line was written.
        """
        made = what_was_made(self.store, pending)
        if made is None:
            self._forget_pending()
            return False
        self.append(**made)
        return True

    def _forget_pending(self) -> None:
        self.marker.pop("pending", None)
        with suppress(OSError):  # the ledger has it: the marker may lag behind
            write_json(self.store / MARKER, self.marker)


def _removed(folder: Path, deep: bool = False) -> Iterator[str]:
    """Remove what a killed process has left, and name it; what can't be removed stops no change."""
    try:
        for path in remove_leftovers(folder, deep):
            yield f"{path}: was left half done"
    except OSError as error:
        print(f"warning: {why_not(error)}; was left half done, and can't be removed", file=sys.stderr)


@contextmanager
def changing(store: Path) -> Iterator[Changes]:
    """Lock the store for a change, once what a killed process left is finished or removed.

    It is taken after an entry of the outbox and after a run, where these are held too. Prune alone takes runs
    after the store, and does not wait for them.

    Raises:
        StoreError: the ledger is lost, or broken.
    """
    with held(store / LOCK):
        marker = _marker_to_change(store)
        chain = store / LEDGER / f"{marker['clone']}.jsonl"
        lines = marker["lines"]
        changes = Changes(store, marker, _last_line(chain, marker))
        changes.end_pending(is_logged=marker["lines"] > lines)  # the marker was written when it began
        changes.ended += [*_removed(store), *_removed(store / LEDGER)]
        for line in changes.ended:
            print(f"ended what a process that was stopped had begun: {line}", file=sys.stderr)
        yield changes


def _marker_to_change(store: Path) -> Marker:
    """Return the marker; a store of an earlier petseg gets one."""
    damages: list[str] = []
    marker = read_marker(store, damages)
    if damages:
        raise StoreError(damages[0])
    if marker is None:
        if chains_of(store) or names_clone(store):
            raise StoreError(f"{store / MARKER}: is gone; {WAY_OUT}")
        return begin(store, "the store had no ledger yet", [*_earlier_promotions(store), *_all_there(store)])
    if not (store / LEDGER / f"{marker['clone']}.jsonl").is_file():
        raise StoreError(f"{store / LEDGER / marker['clone']}.jsonl: is gone; {WAY_OUT}")
    return _at_home(store, marker)


def _at_home(store: Path, marker: Marker) -> Marker:
    """Return the marker of a store that may have been moved, or copied: a copy is a clone of its own."""
    here, there = store.resolve().parent, Path(marker["root"])
    if here == there:
        return marker
    if _is_there_too(there / store.name / MARKER, marker["clone"]):
        said = f"{store}: is a copy of {there / store.name}, and goes on with a ledger of its own"
        print(said, file=sys.stderr)
        return _with_pending(begin(store, f"copied from {there}", ()), marker)
    print(f"{store}: was moved here from {there}", file=sys.stderr)
    marker["root"] = str(here)  # its length and last hash stay, so that no line gets lost on the way
    write_json(store / MARKER, marker)
    return marker


def _is_there_too(marker: Path, clone: str) -> bool:
    """Tell whether the store is still where it was: where that can't be read it may be."""
    try:
        return read_record(marker, Marker)["clone"] == clone
    except (FileNotFoundError, NotADirectoryError, BrokenRecord):
        return False
    except OSError:
        return True


def _with_pending(marker: Marker, before: Marker | None) -> Marker:
    """Return a new marker with the change that had begun by an earlier one; it is ended at once."""
    if before is not None and "pending" in before:
        marker["pending"] = before["pending"]
    return marker


def moved_from(store: Path) -> Path | None:
    """Return where the project was when the store was last changed, if it was elsewhere."""
    marker = None
    with suppress(StoreError):
        marker = read_marker(store, [])
    there = Path(marker["root"]) if marker else store.resolve().parent
    return None if there == store.resolve().parent else there


def _last_line(chain: Path, marker: Marker) -> bytes:
    """Return the last line, once a torn one is dropped; empty where there is none.

    What lies before the end that the marker knows is left to ``petseg runs verify``: a ledger may be long.
    """
    begin = max(0, marker.get("size", 0) - _TAIL_BYTES)
    with naming(chain), chain.open("r+b") as file:
        file.seek(begin)
        tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        if whole != tail:
            print(f"warning: {chain}: its last line was torn, and is dropped", file=sys.stderr)
            file.truncate(begin + len(whole))
    known = marker.get("size", 0) - begin
    count = marker["lines"] + whole.count(b"\n", known) if known > 0 else whole.count(b"\n")
    if known > 0 and len(whole) < known:
        raise StoreError(f"{chain}: the last of its {marker['lines']} lines are gone; {WAY_OUT}")
    if damage := against_marker(chain, whole, count, marker):
        raise StoreError(damage)
    last = last_of(whole)
    marker |= {"lines": count, "size": begin + len(whole), "last": hash_of(last)}
    return last


def begin(store: Path, why: str, lines: Iterable[Mapping[str, Any]]) -> Marker:
    """Begin a part of the ledger; whoever calls holds the store.

    Args:
        store: folder of the runs.
        why: for the first line.
        lines: those that follow.
    """
    chain = store / LEDGER / f"{secrets.token_hex(8)}.jsonl"
    text = last = b""
    # Not before what others wrote by a clock that is ahead: the champion is who was promoted last.
    at = max([now(), *(line["at"] for other in chains_of(store) for line in read_chain(other, [])[0])])
    for each in ({"event": BEGAN, "why": why}, *lines):
        known = {key: value for key, value in each.items() if key != "before"}
        last = json.dumps({"at": at, "by": user(), **known, "before": hash_of(last)}).encode()
        text += last + b"\n"
    with written_atomically(chain) as file:
        file.write(text)
    return _marked(store, chain)


def begin_anew(store: Path) -> str | None:
    """Set a ledger aside that is broken, and begin another; return what was done.

    The new one has the old one's promotions, and the runs and additions that it knew and the store has
    lost: these stay named until somebody prunes them.
    """
    with held(store / LOCK):
        marker = read_marker(store, [])  # raises where it is of a later petseg
        ledger = read_ledger(store)
        if not ledger.damages:
            return None
        old = chains_of(store)
        promoted = {json.dumps(line): line for line in ledger.lines if line["event"] == PROMOTED}
        there, known = list(_all_there(store)), ledger.expected
        names = {(each["run"], each.get("kind"), each.get("key")) for each in there}
        lost: list[dict[str, Any]] = [
            {"run": run, "seal": seal} for run, seal in known.runs.items() if (run, None, None) not in names
        ]
        lost += [
            {"run": run, "kind": kind, "key": key, "seal": seal}
            for (run, kind, key), seal in known.added.items()
            if (run, kind, key) not in names
        ]
        lines = [*promoted.values(), *({"event": BEGAN, **each} for each in lost), *there]
        made = begin(store, "the ledger was broken, and was set aside", lines)
        write_json(store / MARKER, _with_pending(made, marker))
        for path in old:  # last: a crash leaves what the next call begins anew
            path.replace(free(path.with_name(f"{path.name}.damaged")))
        unknown = (
            "" if promoted else "; of promotions it knew nothing: petseg runs promote ID names the champion"
        )
        return f"{store / LEDGER}: was broken, and is begun anew with all that is there{unknown}"


def _marked(store: Path, chain: Path) -> Marker:
    """Write the marker of a clone that goes on with this chain."""
    whole, root = read_file(chain), str(store.resolve().parent)
    marker: Marker = {
        "format": STORE_FORMAT,
        "clone": chain.stem,
        "root": root,
        "lines": whole.count(b"\n"),
        "last": hash_of(last_of(whole)),
        "size": len(whole),
    }
    write_json(store / MARKER, marker)
    return marker


def _all_there(store: Path) -> Iterator[dict[str, Any]]:
    return ({"event": BEGAN, **each} for each in found(store))


def _earlier_promotions(store: Path) -> Iterator[dict[str, Any]]:
    for line in earlier_promotions(store):
        known = {"val_dice": line["val_dice"], "replaced": line["before"], "forced": line["forced"]}
        yield {"at": line["when"], "by": line["by"], "event": PROMOTED, "run": line["key"], **known}
