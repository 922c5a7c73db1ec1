"""Small text files that people and DVC read: JSON, CSV and YAML."""

import csv
import errno
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petseg.core.files import read_file, written_atomically
from petseg.errors import ParamsError

if TYPE_CHECKING:
    import pandas as pd


def to_json(values: object) -> str:
    """Return indented JSON, with null for NaN and infinity, which JSON does not know."""
    return json.dumps(without_nan(values), indent=2, allow_nan=False) + "\n"


def without_nan(values: object) -> Any:
    """Return nested dicts and lists with None for every float that is not finite."""
    if isinstance(values, dict):
        return {key: without_nan(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [without_nan(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values


def printable(text: object) -> str:
    """Return text, or a path, with escapes for what can't be shown: a file's name may have anything."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in shown
    )


def with_texts(values: object, changed: Callable[[str], str]) -> Any:
    """Return nested dicts and lists in which each text, keys too, is what ``changed`` makes of it."""
    if isinstance(values, dict):
        return {with_texts(key, changed): with_texts(value, changed) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [with_texts(value, changed) for value in values]
    return changed(values) if isinstance(values, str) else values


def write_json(path: Path, values: object) -> None:
    """Write indented JSON, crash-safe."""
    with written_atomically(path) as file:
        file.write(to_json(values).encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows that have the same columns, which the first line names; crash-safe."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with written_atomically(path) as file:
        file.write(text.getvalue().encode())


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, the same bytes for the same numbers; crash-safe."""
    with written_atomically(path) as file:
        file.write(table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode())


def read_yaml(path: Path) -> Any:
    """Read a YAML file as DVC does: by YAML 1.2, where 1e-4 is a number and ``no`` a string.

    Raises:
        ParamsError: the file is absent or no regular file, or is not YAML as petseg.core.yamlfiles reads it.
    """
    from petseg.core.yamlfiles import MAX_BYTES, parsed  # not above: the command's help would wait for it

    try:
        return parsed(read_file(path, MAX_BYTES).decode())
    except (FileNotFoundError, NotADirectoryError):
        raise ParamsError(f"{path.name}: no such file in {path.absolute().parent}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path.name}: is not UTF-8 text ({error.reason})") from None
    except ParamsError as error:
        raise ParamsError(f"{path.name}: {printable(error)}") from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EOVERFLOW):
            raise
        raise ParamsError(f"{path.name}: {error.strerror}") from None


def yaml_value(text: str) -> Any:
    """Return what a value means that somebody typed, ``1e-3`` or ``null``, as it would in params.yaml."""
    from petseg.core.yamlfiles import parsed

    try:
        return parsed(text)
    except ParamsError:
        return text
