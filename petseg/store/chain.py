"""Read the ledger: its lines, the state of the store that they give, and what is wrong with them.

petseg.store.ledger describes its files, and writes them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

from petseg.core.checked import MOST_BYTES_OF_LINES, checked, parsed, read_bounded, read_record
from petseg.core.files import listed
from petseg.errors import BrokenRecord, StoreError
from petseg.store.before import names_clone
from petseg.store.records import EDITED, is_as_sealed, seal_of
from petseg.store.typed import Line, Marker, Pending, Seen

MARKER, LEDGER, LOCK = "store.json", "ledger", ".lock"
STORE_FORMAT = 2
BEGAN, FINISHED, ADOPTED, ADDED, PROMOTED, PRUNED, HEALED, SET_ASIDE = (
    *("began", "finished", "adopted", "added", "promoted"),
    *("pruned", "healed", "set aside"),
)
MADE = (BEGAN, FINISHED, ADOPTED, ADDED)  # each of these leaves the record that the line names
WAY_OUT = "petseg runs verify --heal begins a new ledger of what is there"
_NOT_AS_KNOWN = "is not what the ledger says; it was edited"
_FIRST = "0" * 64  # in place of the hash of a line before the first

Place = tuple[str, ...]  # of a record: a run's key; for an addition, the run's key, its kind and its key


@dataclass
class Ledger:
    """The content of the ledger.

    Attributes:
        lines: the proved lines of all clones, the oldest first.
        unproved: the other lines, which are not used.
        damages: what is wrong with the ledger.
        pending: a change that has begun, whose line is not written yet.
    """

    lines: list[Line] = field(default_factory=list)
    unproved: list[Line] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)
    pending: Pending | None = None

    @property
    def seals(self) -> dict[Place, str | None]:
        """The records that exist according to the lines, and the seal of each; None if it is unknown."""
        known: dict[Place, str | None] = {}
        for line in self.lines:
            event, place = line["event"], place_of(line)
            if event in MADE and place:
                known[place] = line.get("seal")
            elif event == PRUNED:
                known = {other: seal for other, seal in known.items() if other[:1] != place}
            elif event == SET_ASIDE and "kind" in line:
                known.pop(place, None)
        return known


def place_of(line: Line | Pending) -> Place:
    """Return the place of the record that a line concerns; empty if it concerns none."""
    if "kind" in line and "key" in line:
        return line.get("run", ""), line["kind"], line["key"]
    return (line["run"],) if "run" in line else ()


@dataclass
class Chain:
    """The lines of one clone.

    Attributes:
        path: the file.
        lines: the lines that can be read, by number.
        unproved: numbers of the lines that were edited, as the hashes show.
        whole: the bytes of the file, without an incomplete last line.
        count: number of complete lines, including those that can't be read.
    """

    path: Path
    lines: dict[int, Line]
    unproved: set[int]
    whole: bytes
    count: int

    @property
    def proved(self) -> list[Line]:
        """The lines that are used."""
        return [line for number, line in self.lines.items() if number not in self.unproved]

    def doubts(self, last: bool = False) -> list[str]:
        """Return a message for each line that is not used, and with ``last`` for the unproved last one."""
        notes = {number: "is not used; it says" for number in self.unproved if number in self.lines}
        if last and self.count in self.lines:
            notes.setdefault(self.count, "nothing proves this last line; it says")
        return [
            f"{self.path}, line {number}: {note}: {self.lines[number]['event']} "
            + "/".join(place_of(self.lines[number]))
            for number, note in sorted(notes.items())
        ]


def read_ledger(store: Path) -> Ledger:
    """Read the ledger of a store, which may have none yet."""
    ledger = Ledger()
    marker = _understood_marker(store, ledger.damages)
    ledger.pending = marker.get("pending") if marker else None
    paths = chains_of(store)
    if marker:  # of lines written in the same second, this clone's count as later
        paths.sort(key=lambda path: path.stem == marker["clone"])
    chains = {path: read_chain(path, ledger.damages) for path in paths}
    now = _understood_marker(
        store, []
    )  # the store is read without its lock: lines may have been added meanwhile
    if marker and now and marker["clone"] != now["clone"]:
        return read_ledger(store)
    seen: list[tuple[str, Marker | Seen]] = [(marker["clone"], marker)] if marker else []
    for chain in chains.values():
        seen += chain.lines.get(1, cast(Line, {})).get("others", {}).items()
    for clone, known in seen:
        path, later = chain_of(store, clone), now if known is marker else None
        damage = (
            against_marker(chains[path], known, later) if path in chains else f"{path}: is gone; {WAY_OUT}"
        )
        ledger.damages += [damage] if damage else []
    timed: list[tuple[str, Line]] = []
    for chain in chains.values():
        ledger.damages += chain.doubts(last=marker is None)
        ledger.unproved += [line for number, line in chain.lines.items() if number in chain.unproved]
        # A clock that was set back does not change the order within a clone.
        timed += zip(accumulate((line["at"] for line in chain.proved), max), chain.proved, strict=True)
    if marker is None and (chains or names_clone(store)) and not (store / MARKER).exists():
        ledger.damages.insert(0, f"{store / MARKER}: is gone; {WAY_OUT}")
    ledger.lines = [line for _, line in sorted(timed, key=lambda each: each[0])]
    return ledger


def _understood_marker(store: Path, damages: list[str]) -> Marker | None:
    try:
        return read_marker(store, damages)
    except StoreError as error:  # from a later petseg: the ledger is read as far as possible
        damages.append(str(error))
        return None


def edit_of(store: Path, place: Place, record: Path, content: Mapping[str, Any]) -> str | None:
    """Return what shows that a record was edited, or put into the store by hand; None if nothing does.

    Args:
        store: folder of the runs.
        place: the place of the record.
        record: its file, for the message.
        content: its content.
    """
    if not is_as_sealed(content):
        return f"{record}: {EDITED}"
    seals = _known_seals(store)
    if seals and place not in seals:  # a store from an earlier petseg has no ledger yet
        return f"{record.parent}: the ledger does not know it"
    if seals.get(place) not in (None, seal_of(content)):
        return f"{record}: {_NOT_AS_KNOWN}"
    return None


def unfinished_edit_of(store: Path, place: Place, record: Path) -> str | None:
    """Return a message if a run is finished by the ledger, but not by its own record; else None."""
    return f"{record}: {_NOT_AS_KNOWN}" if _known_seals(store).get(place) else None


def _known_seals(store: Path) -> Mapping[Place, str | None]:
    """Return the seals in the ledger, which is read again only if it has changed."""
    chains = listed(store / LEDGER, "*.jsonl")
    if not chains:
        return {}
    return _seals(store, tuple(map(_state_of, [store / MARKER, *chains])))


def _state_of(path: Path) -> tuple[Path, int, int]:
    """Return a value that changes whenever a file is written."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return path, -1, 0
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1)
def _seals(store: Path, _files: tuple[tuple[Path, int, int], ...]) -> Mapping[Place, str | None]:
    ledger = read_ledger(store)
    return ({place_of(ledger.pending): None} if ledger.pending else {}) | ledger.seals


def chain_of(store: Path, clone: str) -> Path:
    """Return the file of a clone's lines."""
    return store / LEDGER / f"{clone}.jsonl"


def chains_of(store: Path) -> list[Path]:
    """Return the files of the ledger, one per clone."""
    return sorted(path for path in listed(store / LEDGER, "*.jsonl") if path.is_file())


def read_marker(store: Path, damages: list[str]) -> Marker | None:
    """Read the marker; None if there is none, or if it is broken, which is added to ``damages``.

    Raises:
        StoreError: it has a later format.
    """
    try:
        marker = read_record(store / MARKER, Marker)
    except FileNotFoundError:
        return None
    except BrokenRecord as error:
        damages.append(f"{error}; {WAY_OUT}")
        return None
    if (known := marker["format"]) > STORE_FORMAT:
        raise StoreError(f"{store / MARKER}: has format {known}, this petseg knows {STORE_FORMAT}")
    return marker


def against_marker(chain: Chain, known: Marker | Seen, later: Marker | None = None) -> str | None:
    """Return how a chain differs from what was known of it; its changed or added lines become unproved.

    Args:
        chain: the chain; it may have one line more if a change had begun, because the marker is written last.
        known: the marker before the chain was read.
        later: the marker after the chain was read, if other processes may have changed the store meanwhile.
    """
    count, whole, path = known["lines"], chain.whole, chain.path
    more = chain.count - count
    if more < 0:
        return f"{path}: {-more} of its {count} lines are gone; {WAY_OUT}"
    if chain.count > max(each["lines"] + ("pending" in each) for each in (known, later or known)):
        chain.unproved |= set(range(count + 1, chain.count + 1))
        return f"{path}: has {more} lines more than were written; {WAY_OUT}"
    for _ in range(more):
        whole = whole[: -len(last_of(whole)) - 1]
    if known["last"] != hash_of(last_of(whole)):
        chain.unproved.add(count)
        return f"{path}, line {count}: was edited, it has another hash than when it was written; {WAY_OUT}"
    return None


def last_of(whole: bytes) -> bytes:
    """Return the last of these complete lines; empty if there is none."""
    return whole[whole.rfind(b"\n", 0, -1) + 1 : -1]


def read_chain(path: Path, damages: list[str]) -> Chain:
    """Read the lines of one clone, and add to ``damages`` what is wrong with them."""
    try:
        text = read_bounded(path, MOST_BYTES_OF_LINES)
    except BrokenRecord as error:
        damages.append(str(error))
        return Chain(path, {}, set(), b"", 0)
    *whole, rest = text.split(b"\n")
    if rest:
        damages.append(f"{path}: its last line is torn; the next change of the store drops it")
    lines: dict[int, Line] = {}
    unproved: set[int] = set()
    before = _FIRST
    for number, each in enumerate(whole, 1):
        place = f"{path}, line {number}"
        try:
            line = checked(parsed(each, place), Line, place)
            if "kind" in line and "key" not in line:
                raise BrokenRecord(f"{place}: names a kind and no key")
        except BrokenRecord as error:
            damages.append(str(error))
        else:
            lines[number] = line
            if line["before"] != before:
                damages.append(f"{place}: does not hold the hash of the line before it, so one was edited")
                unproved.add(number - 1)
        before = hash_of(each)
    return Chain(path, lines, unproved, text[: len(text) - len(rest)], len(whole))


def hash_of(line: bytes) -> str:
    """Return the hash of a line, which the next line holds; empty stands for no line."""
    return hashlib.sha256(line).hexdigest() if line else _FIRST
