"""Write the ledger: one line for each change of the store, with the hash of the line before it.

``runs/ledger/<clone>.jsonl``  the lines of one clone of the project, appended under ``runs/.lock``
``runs/store.json``            the marker: it shows that the store has a ledger, and holds its length, the
                               place of the store, and a change that has begun; if the process of that
                               change was killed, the next change completes it

With it, ``petseg runs verify`` can name the runs and records that are missing or were edited.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from petseg.core.checked import read_record
from petseg.core.files import naming, remove_leftovers, why_not
from petseg.core.locks import held
from petseg.core.project import now, user
from petseg.core.terminal import print_lines
from petseg.core.textfiles import write_json
from petseg.errors import BrokenRecord, StoreError
from petseg.store.before import names_clone
from petseg.store.beginning import begin_beside, begin_first
from petseg.store.chain import (
    LEDGER,
    LOCK,
    MADE,
    MARKER,
    WAY_OUT,
    Chain,
    against_marker,
    chain_of,
    chains_of,
    hash_of,
    last_of,
    place_of,
    read_ledger,
    read_marker,
)
from petseg.store.pending import completed_line
from petseg.store.typed import Marker, Pending

_TAIL_BYTES = 1 << 16  # more than the last line has


@dataclass
class Changes:
    """The right to change a store, which only one process has at a time; ``changing`` returns it."""

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
        return chain_of(self.store, self.clone)

    @contextmanager
    def noting(
        self, event: str, run: str, undo: Callable[[], object] | None = None, **more: str
    ) -> Iterator[None]:
        """Log the change that the block makes: write its line into the ledger after it is made.

        Args:
            event: the kind of change.
            run: key of the run that is changed.
            undo: undoes the change if its line can't be written; if None, the next process writes the line.
            more: the addition or the file that is changed.
        """
        pending = cast(Pending, {"event": event, "run": run, **more})
        self.marker["pending"] = pending
        write_json(self.store / MARKER, self.marker)
        try:
            yield
        except BaseException:
            with suppress(OSError, StoreError):  # else the next process completes it
                self._end(pending)
            raise
        try:
            self._end(pending)
        except OSError:
            with suppress(OSError):  # else the next process completes it
                if undo is not None:
                    undo()
                    self._forget_pending()
            raise

    def append(self, event: str, **more: Any) -> None:
        """Append a line to the ledger, and wait until it is on the disk."""
        if "pending" not in self.marker:  # else the line would look forged after a crash
            self.marker["pending"] = {"event": event, "run": more["run"]}
            write_json(self.store / MARKER, self.marker)
        line = {"at": now(), "by": user(), "event": event, **more, "before": hash_of(self.last)}
        text = json.dumps(line).encode()
        with naming(self.chain), self.chain.open("r+b", buffering=0) as file:
            end, rest = file.seek(0, os.SEEK_END), text + b"\n"
            try:
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):  # else the next change of the store removes it
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
        """Complete the change of a process that was killed.

        Args:
            is_logged: whether the ledger already has its line.
        """
        if (pending := self.marker.get("pending")) is None:
            return
        self.ended += _removed(self.store / pending["run"], deep=True)
        if is_logged or (pending["event"] in MADE and read_ledger(self.store).seals.get(place_of(pending))):
            self._forget_pending()
        elif self._end(pending):
            self.ended.append(f"run {pending['run']} {pending['event']}")

    def _end(self, pending: Pending) -> bool:
        """Write the line of a change, if the change was made, and remove it from the marker.

        Returns:
            Whether the line was written.
        """
        made = completed_line(self.store, pending)
        if made is None:
            self._forget_pending()
            return False
        self.append(**made)
        return True

    def _forget_pending(self) -> None:
        self.marker.pop("pending", None)
        with suppress(OSError):  # the ledger has the line, so the marker may be old
            write_json(self.store / MARKER, self.marker)


def _removed(folder: Path, deep: bool = False) -> Iterator[str]:
    """Remove and name what a killed process has left; if that fails, print a warning and go on."""
    try:
        for path in remove_leftovers(folder, deep):
            yield f"{path}: was left half done"
    except OSError as error:
        print_lines(f"warning: {why_not(error)}; was left half done, and can't be removed", err=True)


@contextmanager
def changing(store: Path) -> Iterator[Changes]:
    """Lock the store for a change, and first complete or remove what a killed process left.

    If a lock on an entry of the outbox or on a run is held too, it must be taken before this one. Only prune
    locks runs after the store, and it does not wait for them.

    Raises:
        StoreError: the ledger is lost, or broken.
    """
    with held(store / LOCK):
        marker = _marker_to_change(store)
        lines = marker["lines"]
        changes = Changes(store, marker, _last_line(chain_of(store, marker["clone"]), marker))
        changes.end_pending(is_logged=marker["lines"] > lines)  # the marker was written before the line
        changes.ended += [*_removed(store), *_removed(store / LEDGER)]
        for line in changes.ended:
            print_lines(f"completed or removed what a stopped process left: {line}", err=True)
        yield changes


def _marker_to_change(store: Path) -> Marker:
    """Return the marker; create it in a store of an earlier petseg."""
    damages: list[str] = []
    marker = read_marker(store, damages)
    if damages:
        raise StoreError(damages[0])
    if marker is None:
        if chains_of(store) or names_clone(store):
            raise StoreError(f"{store / MARKER}: is gone; {WAY_OUT}")
        return begin_first(store)
    if not (chain := chain_of(store, marker["clone"])).is_file():
        raise StoreError(f"{chain}: is gone; {WAY_OUT}")
    return _after_move(store, marker)


def _after_move(store: Path, marker: Marker) -> Marker:
    """Return the marker of a store that may have been moved or copied; a copy becomes a clone of its own."""
    here, there = store.resolve().parent, Path(marker["root"])
    if here == there:
        return marker
    if _is_there_too(there / store.name / MARKER, marker["clone"]):
        message = f"{store}: is a copy of {there / store.name}, and goes on with a ledger of its own"
        print_lines(message, err=True)
        return begin_beside(store, f"copied from {there}", marker)
    print_lines(f"{store}: was moved here from {there}", err=True)
    marker["root"] = str(here)  # length and last hash stay, so that lost lines are noticed
    write_json(store / MARKER, marker)
    return marker


def _is_there_too(marker: Path, clone: str) -> bool:
    """Return whether the store also exists at its earlier place; True if that can't be read."""
    try:
        return read_record(marker, Marker)["clone"] == clone
    except (FileNotFoundError, NotADirectoryError, BrokenRecord):
        return False
    except OSError:
        return True


def moved_from(store: Path) -> Path | None:
    """Return the folder of the project at the last change of the store; None if it is the same now."""
    marker = None
    with suppress(StoreError):
        marker = read_marker(store, [])
    there = Path(marker["root"]) if marker else store.resolve().parent
    return None if there == store.resolve().parent else there


def _last_line(chain: Path, marker: Marker) -> bytes:
    """Return the last line, and remove an incomplete one after it; empty if there is none.

    Lines before the end that the marker knows are left to ``petseg runs verify``: a ledger may be long.
    """
    begin = max(0, marker["size"] - _TAIL_BYTES)
    with naming(chain), chain.open("r+b") as file:
        if file.seek(0, os.SEEK_END) > marker["size"] + _TAIL_BYTES:
            raise StoreError(f"{chain}: has far more than its {marker['lines']} lines; {WAY_OUT}")
        file.seek(begin)
        tail = file.read()
        whole = tail[: tail.rfind(b"\n") + 1]
        if whole != tail:
            print_lines(f"warning: {chain}: its last line was torn, and is dropped", err=True)
            file.truncate(begin + len(whole))
    known = marker["size"] - begin
    count = marker["lines"] + whole.count(b"\n", known) if known > 0 else whole.count(b"\n")
    if known > 0 and len(whole) < known:
        raise StoreError(f"{chain}: the last of its {marker['lines']} lines are gone; {WAY_OUT}")
    if known > 0 and whole[known - 1 : known] != b"\n":
        raise StoreError(
            f"{chain}: was edited, a line ends at another place than when it was written; {WAY_OUT}"
        )
    if damage := against_marker(Chain(chain, {}, set(), whole, count), marker):
        raise StoreError(damage)
    last = last_of(whole)
    marker |= {"lines": count, "size": begin + len(whole), "last": hash_of(last)}
    return last
