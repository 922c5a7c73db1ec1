"""The ledger, to read: its lines, what they add up to, and what is wrong with them.

What lies where, and how it is written: petseg.store.ledger.
"""

import hashlib
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from petseg.core.files import listed, read_file
from petseg.errors import BrokenRecord, StoreError
from petseg.store.before import names_clone
from petseg.store.records import parsed, read_record
from petseg.store.typed import Line, Marker, checked

MARKER, LEDGER = "store.json", "ledger"
STORE_FORMAT = 2
BEGAN, FINISHED, ADOPTED, ADDED, PROMOTED, PRUNED, HEALED, SET_ASIDE = (
    *("began", "finished", "adopted", "added", "promoted"),
    *("pruned", "healed", "set aside"),
)
WAY_OUT = "petseg runs verify --heal begins a new ledger of what is there"
_FIRST = "0" * 64  # stands for the hash of the line before the first


@dataclass
class Expected:
    """What the ledger says that there is.

    Attributes:
        runs: the seal of each finished run's manifest, by its key; None where it is not known.
        added: the seal of each addition's record, by run, kind and key.
    """

    runs: dict[str, str | None] = field(default_factory=dict)
    added: dict[tuple[str, str, str], str | None] = field(default_factory=dict)


@dataclass
class Ledger:
    """The ledger, read.

    Attributes:
        lines: of all clones, the oldest first.
        damages: what is wrong with it.
    """

    lines: list[Line] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)

    @property
    def expected(self) -> Expected:
        """What the lines add up to."""
        known = Expected()
        for line in self.lines:
            run = line.get("run", "")
            if line["event"] in (BEGAN, FINISHED, ADOPTED, ADDED) and "kind" in line:
                known.added[run, line["kind"], line["key"]] = line.get("seal")
            elif line["event"] in (BEGAN, FINISHED, ADOPTED) and run:
                known.runs[run] = line.get("seal")
            elif line["event"] == PRUNED:
                known.runs.pop(run, None)
                known.added = {key: seal for key, seal in known.added.items() if key[0] != run}
            elif line["event"] == SET_ASIDE and "kind" in line:
                known.added.pop((run, line["kind"], line["key"]), None)
        return known


def read_ledger(store: Path) -> Ledger:
    """Read the ledger of a store, which may have none yet."""
    ledger = Ledger()
    marker = None
    try:
        marker = read_marker(store, ledger.damages)
    except StoreError as error:  # of a later petseg: it is read as far as it is understood
        ledger.damages.append(str(error))
    chains = chains_of(store)
    if marker:  # of lines of the same second this clone's are the later ones
        chains.sort(key=lambda chain: chain.stem == marker["clone"])
    timed: list[tuple[str, Line]] = []
    for chain in chains:
        lines, whole, count = read_chain(chain, ledger.damages)
        # A clock that was set back changes no order within a clone.
        timed += zip(accumulate((line["at"] for line in lines), max), lines, strict=True)
        if marker and chain.stem == marker["clone"]:
            ledger.damages += filter(None, [against_marker(chain, whole, count, marker)])
    if marker and marker["clone"] not in [chain.stem for chain in chains]:
        ledger.damages.append(f"{store / LEDGER / marker['clone']}.jsonl: is gone; {WAY_OUT}")
    if marker is None and not ledger.damages and (chains or names_clone(store)):
        ledger.damages.append(f"{store / MARKER}: is gone; {WAY_OUT}")
    ledger.lines = [line for _, line in sorted(timed, key=lambda each: each[0])]
    return ledger


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


def against_marker(chain: Path, whole: bytes, there: int, marker: Marker) -> str | None:
    """Say what the marker knows of a chain's whole lines that they are not; there may be more of them."""
    count = marker["lines"]
    if there < count:
        return f"{chain}: {count - there} of its {count} lines are gone; {WAY_OUT}"
    for _ in range(there - count):
        whole = whole[: -len(last_of(whole)) - 1]
    if "last" in marker and marker["last"] != hash_of(last_of(whole)):
        return f"{chain}, line {count}: is not what {MARKER} says; it was edited; {WAY_OUT}"
    return None


def last_of(whole: bytes) -> bytes:
    """Return the last of whole lines; empty where there is none."""
    return whole[whole.rfind(b"\n", 0, -1) + 1 : -1]


def read_chain(path: Path, damages: list[str]) -> tuple[list[Line], bytes, int]:
    """Read the whole lines of one clone; give them too as they stand there, and their number."""
    text = read_file(path)
    *whole, rest = text.split(b"\n")
    if rest:
        damages.append(f"{path}: its last line is torn; the next change of the store drops it")
    lines, before = [], _FIRST
    for number, each in enumerate(whole, 1):
        place = f"{path}, line {number}"
        try:
            line = checked(parsed(each, place), Line, place)
        except BrokenRecord as error:
            damages.append(str(error))
        else:
            if line["before"] != before:
                damages.append(f"{place}: does not hold the hash of the line before it, so one was edited")
            lines.append(line)
        before = hash_of(each)
    return lines, text[: len(text) - len(rest)], len(whole)


def hash_of(line: bytes) -> str:
    """Return what the line after this one holds of it; empty stands for none."""
    return hashlib.sha256(line).hexdigest() if line else _FIRST
