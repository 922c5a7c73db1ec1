"""Find out whether a change of the store was completed before its process was killed."""

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from petseg.core.checked import read_record
from petseg.errors import StoreError
from petseg.store.chain import ADDED, ADOPTED, FINISHED, HEALED, PRUNED, SET_ASIDE
from petseg.store.layout import RECORDS
from petseg.store.records import damage_in, read_manifest, seal_of
from petseg.store.typed import Added, Pending


def completed_line(store: Path, pending: Pending) -> dict[str, Any] | None:
    """Return the line of a change that had begun; None if the change was not made."""
    if "kind" in pending and "key" not in pending:
        return None
    line = cast("dict[str, Any]", dict(pending))
    folder = store / pending["run"]
    if pending["event"] == PRUNED:
        # A folder is moved aside before its line is written, and deleted after it.
        aside = folder.with_name(f".{folder.name}.pruned.tmp")
        return line if aside.exists() and not folder.exists() else None
    if pending["event"] == HEALED and "file" in pending and "sha256" in pending:
        return None if damage_in(folder, pending["file"], pending["sha256"]) else line
    if pending["event"] == SET_ASIDE and "kind" in pending:
        return None if (folder / pending["kind"] / pending["key"]).exists() else line
    if pending["event"] not in (FINISHED, ADOPTED, ADDED):
        return None
    with suppress(StoreError, FileNotFoundError):
        if "kind" in pending:
            record = read_record(folder / pending["kind"] / pending["key"] / RECORDS[pending["kind"]], Added)
            return line | {"seal": seal_of(cast("dict[str, Any]", record))}
        manifest = read_manifest(folder)
        if manifest.get("status") == "finished":
            return line | {"seal": seal_of(manifest)}
    return None
