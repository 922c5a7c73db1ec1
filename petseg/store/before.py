"""Read the runs and promotions of a store without a ledger, so that one can be begun from them."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from petseg.core.checked import MOST_BYTES_OF_LINES, checked, parsed, read_bounded, read_json
from petseg.core.terminal import print_lines
from petseg.errors import BrokenRecord
from petseg.store.layout import RECORDS, manifests, records_in
from petseg.store.records import seal_of
from petseg.store.typed import EarlierPromotion

EARLIER = "champions.jsonl"  # the promotions of a store that had no ledger yet


def names_clone(store: Path) -> bool:
    """Return whether a record of the store was written when the store had a ledger."""
    for path in manifests(store):
        with suppress(BrokenRecord, FileNotFoundError):
            manifest = read_json(path)
            if isinstance(manifest, dict) and "clone" in manifest:
                return True
    return False


def found(store: Path) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Yield the place and the seal of each record of a finished run and of its additions."""
    for path in manifests(store):
        run = path.parent.name
        seal, finished = _seal_in(path)
        if finished:
            yield (run,), seal
            for kind, name in RECORDS.items():
                for record in records_in(path.parent / kind, name):
                    seal, _ = _seal_in(record)
                    yield (run, kind, record.parent.name), seal


def _seal_in(path: Path) -> tuple[str | None, bool]:
    """Return the seal that a record holds, or else that of its content; and whether it is finished.

    A record that can't be read has no seal, and counts as finished, so that it stays known.
    """
    try:
        record = read_json(path)
    except BrokenRecord:
        return None, True
    if not isinstance(record, dict):
        return None, True
    seal = record.get("sha256", seal_of(record))
    return (seal if isinstance(seal, str) else None), record.get("status", "finished") == "finished"


def earlier_promotions(store: Path) -> list[EarlierPromotion]:
    """Return the promotions of a store without a ledger; an incomplete or broken line is named on stderr."""
    path = store / EARLIER
    try:
        lines = read_bounded(path, MOST_BYTES_OF_LINES).splitlines()
    except FileNotFoundError:
        return []
    except BrokenRecord as error:
        print_lines(f"warning: {error}; it is left out", err=True)
        return []
    whole = []
    for number, text in enumerate(lines, 1):
        place = f"{path}, line {number}"
        try:
            whole.append(checked(parsed(text, place), EarlierPromotion, place))
        except BrokenRecord as error:
            print_lines(f"warning: {error}; it is left out", err=True)
    return whole
