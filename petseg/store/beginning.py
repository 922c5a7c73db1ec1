"""Begin a ledger, or a clone's part of it: in an old store, in a copy, or in place of a broken ledger."""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from petseg.core.files import read_file, written_atomically
from petseg.core.locks import held
from petseg.core.project import now, user
from petseg.core.textfiles import write_json
from petseg.store.before import earlier_promotions, found
from petseg.store.chain import (
    BEGAN,
    LEDGER,
    LOCK,
    MADE,
    MARKER,
    PROMOTED,
    PRUNED,
    STORE_FORMAT,
    Place,
    chain_of,
    chains_of,
    hash_of,
    last_of,
    place_of,
    read_chain,
    read_ledger,
    read_marker,
)
from petseg.store.layout import free
from petseg.store.typed import Marker


def begin_first(store: Path) -> Marker:
    """Begin the ledger of a store from an earlier petseg; the caller must hold the store's lock."""
    lines = [*_earlier_promotions(store), *_began(dict(found(store)))]
    return _begin(store, {"why": "the store had no ledger yet"}, lines)


def begin_beside(store: Path, why: str, before: Marker) -> Marker:
    """Begin the part of another clone, and note how long the other parts are, so that lost lines are noticed.

    Args:
        store: folder of the runs, whose lock the caller holds.
        why: the reason, for the first line.
        before: the marker until now; if it names a change that had begun, the caller completes it at once.
    """
    chains = {path.stem: read_chain(path, []) for path in chains_of(store)}
    seen = {
        clone: {"lines": chain.count, "last": hash_of(last_of(chain.whole))}
        for clone, chain in chains.items()
    }
    return _with_pending(_begin(store, {"why": why, "others": seen}, ()), before)


def begin_anew(store: Path) -> tuple[list[str], list[str]]:
    """Set a broken ledger aside, and begin a new one.

    The new ledger takes over the promotions and the seals of the proved lines, so that a record that was
    edited or is gone is still reported. A record that only unproved lines name is still reported if it is
    gone; a record that no proved line names is accepted as it is.

    Returns:
        A line for each thing that was done, and a line for each that nothing proves.
    """
    with held(store / LOCK):
        marker = read_marker(store, [])  # raises if it is from a later petseg
        ledger = read_ledger(store)
        if not ledger.damages:
            return [], []
        old, known, there = chains_of(store), ledger.seals, dict(found(store))
        pruned = {place_of(line) for line in ledger.lines if line["event"] == PRUNED}
        lost = {place_of(line): None for line in ledger.unproved if line["event"] in MADE}
        seals = {place: seal for place, seal in lost.items() if place and place[:1] not in pruned} | there
        seals |= {place: seal for place, seal in known.items() if seal or place not in there}
        promoted = {json.dumps(line): line for line in ledger.lines if line["event"] == PROMOTED}
        why = {"why": "the ledger was broken, and was set aside"}
        made = _begin(store, why, [*promoted.values(), *_began(seals)])
        write_json(store / MARKER, _with_pending(made, marker))
        for path in old:  # last, so that the next call can repeat this after a crash
            path.replace(free(path.with_name(f"{path.name}.damaged")))
        *_, last = ("none", *(line.get("run", "none") for line in promoted.values()))
        taken = [
            f"{store.joinpath(*place)}: was not in it, and is taken as it is"
            for place in there.keys() - known
        ]
        begun = f"{store / LEDGER}: was broken, and is begun anew; the champion by it: {last}"
        return [begun], [*ledger.damages, *(sorted(taken) if known else ())]


def _begin(store: Path, first: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> Marker:
    """Write a new part of the ledger with a first line and others, and make it this clone's part."""
    chain = chain_of(store, secrets.token_hex(8))
    text = last = b""
    # Not earlier than lines from a clock that is ahead: the champion is the run that was promoted last.
    others = [line for path in chains_of(store) for line in read_chain(path, []).lines.values()]
    at = max([now(), *(line["at"] for line in others)])
    for each in ({"event": BEGAN, **first}, *lines):
        known = {key: value for key, value in each.items() if key != "before"}
        last = json.dumps({"at": at, "by": user(), **known, "before": hash_of(last)}).encode()
        text += last + b"\n"
    with written_atomically(chain) as file:
        file.write(text)
    return _marked(store, chain)


def _marked(store: Path, chain: Path) -> Marker:
    """Write the marker of a clone that continues this chain."""
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


def _began(seals: Mapping[Place, str | None]) -> Iterator[dict[str, Any]]:
    """Yield a line for each record that exists when a ledger begins."""
    for place, seal in seals.items():
        yield {"event": BEGAN, **dict(zip(("run", "kind", "key"), place, strict=False)), "seal": seal}


def _earlier_promotions(store: Path) -> Iterator[dict[str, Any]]:
    for line in earlier_promotions(store):
        known = {"val_dice": line["val_dice"], "replaced": line["before"], "forced": line["forced"]}
        yield {"at": line["when"], "by": line["by"], "event": PROMOTED, "run": line["key"], **known}


def _with_pending(marker: Marker, before: Marker | None) -> Marker:
    """Return a new marker with the change that had begun under an earlier one; it is completed at once."""
    if before is not None and "pending" in before:
        marker["pending"] = before["pending"]
    return marker
