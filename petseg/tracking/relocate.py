"""MLflow's files in a project that was moved, renamed or copied: its database has their whole paths.

Left alone, MLflow would go on with the folder of before: gone, or that of the original.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

from petseg.core.terminal import print_lines

ARTIFACTS = "mlartifacts"
_LOCKED_FOR_S = 120
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate(database: Path, root: Path, experiment: str) -> None:
    """Lead the database of a project to the files beside it, if it leads to where the project was before.

    Args:
        database: of MLflow, by SQLite; in the root itself, or it is not the project's own.
        root: of the project, where its artifacts lie too.
        experiment: whose location says where they were.
    """
    if database.parent != root or not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=_LOCKED_FOR_S, isolation_level=None)) as tables:
        there = _root_of(tables, experiment)
        if there in (None, root):
            return
        tables.execute("BEGIN IMMEDIATE")
        known = {name for (name,) in tables.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        forms = ((f"file://{quote(os.fsencode(there))}/", f"{root.as_uri()}/"), (f"{there}/", f"{root}/"))
        for table, column in (each for each in _COLUMNS if each[0] in known):
            for old, new in forms:
                moved = f"SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                tables.execute(f"UPDATE {table} {moved}", (new, len(old) + 1, len(old), old))
        tables.execute("COMMIT")
    print_lines(f"MLflow's files are those in {root / ARTIFACTS} now; the project was at {there}", err=True)


def _root_of(tables: sqlite3.Connection, experiment: str) -> Path | None:
    """Return where the project was when its experiment was made; None where that can't be told."""
    try:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        found = tables.execute(query, (experiment,)).fetchone()
    except sqlite3.DatabaseError:  # no tables yet, or no database: MLflow says more
        return None
    location = unquote((found[0] if found else "").removeprefix("file://"))
    root, separator, rest = location.rpartition(f"/{ARTIFACTS}/")
    return Path(root) if separator and rest == experiment else None
