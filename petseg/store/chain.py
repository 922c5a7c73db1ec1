"""The ledger, to read: its lines, what they add up to, and what is wrong with them.

What lies where, and how it is written: petseg.store.ledger.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from petseg.core.files import listed, read_file
from petseg.errors import BrokenRecord, StoreError
from petseg.store.before import names_clone
from petseg.store.records import EDITED, is_as_sealed, parsed, read_record, seal_of
from petseg.store.typed import Line, Marker, Pending, Seen, checked

MARKER, LEDGER, LOCK = "store.json", "ledger", ".lock"
STORE_FORMAT = 2
BEGAN, FINISHED, ADOPTED, ADDED, PROMOTED, PRUNED, HEALED, SET_ASIDE = (
    *("began", "finished", "adopted", "added", "promoted"),
    *("pruned", "healed", "set aside"),
)
WAY_OUT = "petseg runs verify --heal begins a new ledger of what is there"
_FIRST = "0" * 64  # stands for the hash of the line before the first

Place = tuple[str, ...]  # of a record: a run's key; of an addition, its run's key, its kind and its own key


@dataclass
class Ledger:
    """The ledger, read.

    Attributes:
        lines: of all clones, the oldest first, without those that were edited.
        damages: what is wrong with it.
        pending: a change that has begun, whose line is not written yet.
    """

    lines: list[Line] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)
    pending: Pending | None = None

    @property
    def seals(self) -> dict[Place, str | None]:
        """The records that the lines say there are, and the seal of each; None where it is not known."""
        known: dict[Place, str | None] = {}
        for line in self.lines:
            event, place = line["event"], _place_of(line)
            if event in (BEGAN, FINISHED, ADOPTED, ADDED) and place:
                known[place] = line.get("seal")
            elif event == PRUNED:
                known = {other: seal for other, seal in known.items() if other[:1] != place}
            elif event == SET_ASIDE and "kind" in line:
                known.pop(place, None)
        return known


def _place_of(line: Line | Pending) -> Place:
    """Return the record that a line is of; empty where it is of none."""
    if "kind" in line and "key" in line:
        return line.get("run", ""), line["kind"], line["key"]
    return (line["run"],) if "run" in line else ()


@dataclass
class Chain:
    """The lines of one clone.

    Attributes:
        lines: those that the line after them holds the hash of, and the last.
        whole: their bytes, without a torn last line.
        count: how many whole lines there are, edited ones included.
    """

    lines: list[Line]
    whole: bytes
    count: int


def read_ledger(store: Path) -> Ledger:
    """Read the ledger of a store, which may have none yet."""
    ledger = Ledger()
    marker = None
    try:
        marker = read_marker(store, ledger.damages)
    except StoreError as error:  # of a later petseg: it is read as far as it is understood
        ledger.damages.append(str(error))
    ledger.pending = marker.get("pending") if marker else None
    paths = chains_of(store)
    if marker:  # of lines of the same second this clone's are the later ones
        paths.sort(key=lambda path: path.stem == marker["clone"])
    chains = {path: read_chain(path, ledger.damages) for path in paths}
    timed: list[tuple[str, Line]] = []
    seen: list[tuple[str, Marker | Seen]] = [(marker["clone"], marker)] if marker else []
    for chain in chains.values():
        # A clock that was set back changes no order within a clone.
        timed += zip(accumulate((line["at"] for line in chain.lines), max), chain.lines, strict=True)
        seen += chain.lines[0].get("others", {}).items() if chain.lines else ()
    for clone, known in seen:
        path = chain_of(store, clone)
        damage = (
            against_marker(path, chains[path], known) if path in chains else f"{path}: is gone; {WAY_OUT}"
        )
        ledger.damages += [damage] if damage else []
    if marker is None and not ledger.damages and (chains or names_clone(store)):
        ledger.damages.append(f"{store / MARKER}: is gone; {WAY_OUT}")
    ledger.lines = [line for _, line in sorted(timed, key=lambda each: each[0])]
    return ledger


def edit_of(store: Path, place: Place, record: Path, content: Mapping[str, Any]) -> str | None:
    """Say what shows that a record was edited, or laid into the store by hand; None where nothing does.

    Args:
        store: folder of the runs.
        place: of the record.
        record: its file, for the message.
        content: what it says.
    """
    if not is_as_sealed(content):
        return f"{record}: {EDITED}"
    seals = _known_seals(store)
    if seals and place not in seals:  # a store of an earlier petseg has no ledger yet
        return f"{record.parent}: the ledger does not know it"
    if seals.get(place) not in (None, seal_of(content)):
        return f"{record}: is not what the ledger says; it was edited"
    return None


def _known_seals(store: Path) -> Mapping[Place, str | None]:
    """Return the seals that the ledger has; it is read again only once it has changed."""
    files = [*listed(store, MARKER), *listed(store / LEDGER, "*.jsonl")]
    status = {path: path.stat() for path in files}
    return _seals(store, tuple((path, each.st_size, each.st_mtime_ns) for path, each in status.items()))


@lru_cache(maxsize=1)
def _seals(store: Path, _files: tuple[tuple[Path, int, int], ...]) -> Mapping[Place, str | None]:
    ledger = read_ledger(store)
    return ({_place_of(ledger.pending): None} if ledger.pending else {}) | ledger.seals


def chain_of(store: Path, clone: str) -> Path:
    """Return the file of a clone's lines."""
    return store / LEDGER / f"{clone}.jsonl"


def chains_of(store: Path) -> list[Path]:
    """Return the files of the ledger, one a clone."""
    return sorted(path for path in listed(store / LEDGER, "*.jsonl") if path.is_file())


def read_marker(store: Path, damages: list[str]) -> Marker | None:
    """Read the marker; None where there is none, or it is broken, which is added to the damages.

    Raises:
        StoreError: it is of a later format.
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


def against_marker(path: Path, chain: Chain, known: Marker | Seen) -> str | None:
    """Say what was known of a chain's lines that they are not; there may be more of them."""
    count, whole = known["lines"], chain.whole
    if chain.count < count:
        return f"{path}: {count - chain.count} of its {count} lines are gone; {WAY_OUT}"
    for _ in range(chain.count - count):
        whole = whole[: -len(last_of(whole)) - 1]
    if "last" in known and known["last"] != hash_of(last_of(whole)):
        return f"{path}, line {count}: was edited, it has another hash than when it was written; {WAY_OUT}"
    return None


def last_of(whole: bytes) -> bytes:
    """Return the last of whole lines; empty where there is none."""
    return whole[whole.rfind(b"\n", 0, -1) + 1 : -1]


def read_chain(path: Path, damages: list[str]) -> Chain:
    """Read the lines of one clone, and add to ``damages`` what is wrong with them."""
    text = read_file(path)
    *whole, rest = text.split(b"\n")
    if rest:
        damages.append(f"{path}: its last line is torn; the next change of the store drops it")
    lines: dict[int, Line] = {}
    before = _FIRST
    for number, each in enumerate(whole, 1):
        place = f"{path}, line {number}"
        try:
            line = lines[number] = checked(parsed(each, place), Line, place)
        except BrokenRecord as error:
            damages.append(str(error))
        else:
            if line["before"] != before:
                damages.append(f"{place}: does not hold the hash of the line before it, so one was edited")
                if edited := lines.pop(number - 1, None):
                    place = "/".join(_place_of(edited))
                    damages.append(
                        f"{path}, line {number - 1}: is not used; it says: {edited['event']} {place}"
                    )
        before = hash_of(each)
    return Chain(list(lines.values()), text[: len(text) - len(rest)], len(whole))


def hash_of(line: bytes) -> str:
    """Return what the line after this one holds of it; empty stands for none."""
    return hashlib.sha256(line).hexdigest() if line else _FIRST
