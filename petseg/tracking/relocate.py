"""Mends MLflow's database after the project was moved, renamed or copied.

The database has absolute paths. With the old ones, MLflow would use a folder that is gone, or that belongs to
the original project.
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
    """Let the project's database point to the artifacts beside it, if it points to an earlier place.

    Args:
        database: MLflow's SQLite database. Outside the root it is not the project's own, and is left alone.
        root: the project's root, which has the artifacts too.
        experiment: the experiment whose location says where the artifacts were.
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
    """Return where the project was when its experiment was made; None if that is not known."""
    try:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        found = tables.execute(query, (experiment,)).fetchone()
    except sqlite3.DatabaseError:  # no tables yet, or no database: MLflow reports it
        return None
    location = unquote((found[0] if found else "").removeprefix("file://"))
    root, separator, rest = location.rpartition(f"/{ARTIFACTS}/")
    return Path(root) if separator and rest == experiment else None
