"""Store what a later stage made from a finished run beside it: evaluations and figures."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from petseg.core.files import copy_atomically, fsync_folder, published_folder, sha256_file, withdraw_folder
from petseg.core.project import now
from petseg.core.terminal import print_lines
from petseg.core.textfiles import write_json
from petseg.errors import BrokenRecord
from petseg.store.chain import ADDED, SET_ASIDE
from petseg.store.heal import heal
from petseg.store.layout import RECORDS, free
from petseg.store.ledger import Changes, changing
from petseg.store.records import sealed
from petseg.store.run import StoredRun


def keep(run: StoredRun, kind: str, key: str, about: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Add the result of a later stage to a finished run; if it is there already, only heal damaged files.

    Args:
        run: a run of the store.
        kind: EVALUATIONS or FIGURES.
        key: hash of what determines the result.
        about: the facts about its making.
        files: the files, by their names in the store.
    """
    folder = run.folder / kind / key
    with changing(run.folder.parent) as changes:
        StoredRun.open(run.folder)  # raises if it has been pruned meanwhile
        if _is_kept(changes, run, kind, key, files):
            return
        noting = changes.noting(ADDED, run.key, partial(withdraw_folder, folder), kind=kind, key=key)
        with noting, published_folder(folder) as draft:
            for name, path in files.items():
                copy_atomically(path, draft / name)
            hashes = {path.name: sha256_file(path) for path in sorted(draft.iterdir())}
            record = {"created": now(), **about, "clone": changes.clone, "files": hashes}
            write_json(draft / RECORDS[kind], sealed(record))


def _is_kept(changes: Changes, run: StoredRun, kind: str, key: str, files: Mapping[str, Path]) -> bool:
    """Return whether an addition is there and whole; one that these files can't heal is set aside."""
    folder = run.folder / kind / key
    if not folder.exists():
        return False
    try:
        found = run.addition(kind, key)
        if found is not None and not found.damages():
            return True
        if found is not None:
            copies = {sha256_file(path): path for path in files.values()}
            print_lines(*heal(changes, run, found, copies))
            if not found.damages():
                return True
    except BrokenRecord:
        pass
    aside = free(folder.with_name(f".{key}.damaged"))
    print_lines(f"warning: {folder}: is damaged; set aside as {aside.name}")
    with changes.noting(SET_ASIDE, run.key, partial(aside.replace, folder), kind=kind, key=key):
        folder.replace(aside)
        fsync_folder(folder.parent)
    return False
