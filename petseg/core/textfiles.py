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
    """Return indented JSON, with null for NaN and infinity, which JSON does not have."""
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
    """Return a text or a path, with escapes for characters that can't be shown: a file name may hold any."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in shown
    )


def with_texts(values: object, changed: Callable[[str], str]) -> Any:
    """Return nested dicts and lists with ``changed`` applied to each text, keys included."""
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
    """Write rows with the same columns as CSV, with a header line; crash-safe."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with written_atomically(path) as file:
        file.write(text.getvalue().encode())


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as CSV, crash-safe; the same numbers give the same bytes."""
    with written_atomically(path) as file:
        file.write(table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode())


def read_yaml(path: Path) -> Any:
    """Read a YAML file as DVC does: as YAML 1.2, in which ``1e-4`` is a number and ``no`` is a string.

    Raises:
        ParamsError: it is missing or not a regular file, or petseg.core.yamlfiles refuses its content.
    """
    from petseg.core.yamlfiles import MAX_BYTES, parsed  # here, because it would slow down the command's help

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
    """Return the value that a text of the command line, ``1e-3`` or ``null``, would have in params.yaml."""
    from petseg.core.yamlfiles import parsed

    try:
        return parsed(text)
    except ParamsError:
        return text
