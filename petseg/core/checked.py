"""Read JSON that may be damaged or edited, and check that it has the required form.

The form is a TypedDict. The result is a plain dict with the whole content, so that its seal can be checked.
"""

import errno
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from annotated_types import Ge, Le, Len, Predicate

from petseg.core.files import read_file
from petseg.core.textfiles import printable
from petseg.errors import BrokenRecord

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
# A manifest of ten thousand epochs takes 2 MB. At worst (empty lists) 16 MB of JSON take 500 MB in memory.
MOST_BYTES, MOST_BYTES_OF_LINES = 16 << 20, 64 << 20
_DEEP, _LARGE = 64, 1e300

Count = Annotated[int, Ge(0), Le(1 << 62)]
Share = Annotated[float, Ge(0), Le(1)]  # a probability or a threshold
Name = Annotated[str, Len(1, 64), Predicate(str.isalnum)]  # of a folder in the store; it can't lead elsewhere


def read_record(path: Path, form: type[T]) -> T:
    """Read a JSON file that holds one record.

    Raises:
        BrokenRecord: it does not have the form.
        OSError: it can't be read.
    """
    return checked(read_json(path), form, path)


def read_json(path: Path) -> Any:
    """Read a JSON file with any content.

    Raises:
        BrokenRecord: it is not JSON.
        OSError: it can't be read.
    """
    return parsed(read_bounded(path, MOST_BYTES), path)


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a regular file that has at most ``most`` bytes.

    Raises:
        BrokenRecord: it has more, or is a folder, a pipe or a device.
        OSError: it can't be read.
    """
    try:
        return read_file(path, most)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EOVERFLOW):
            raise
        raise BrokenRecord(f"{path}: {error.strerror}") from None


def parsed(text: bytes, where: Path | str, nan: bool = False) -> Any:
    """Parse JSON.

    Args:
        text: JSON in UTF-8.
        where: the source of the text, for the message.
        nan: whether NaN is allowed, as in the descriptions of checkpoints.

    Raises:
        BrokenRecord: it is not JSON, or holds what no record does: numbers that are too large or not finite,
            a key twice, half a surrogate pair, NUL, or too many levels.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MB")
        record = (_WITH_NAN if nan else _DECODER).decode(text.decode())
        if text.count(b"[") + text.count(b"{") > _DEEP and _is_deep(record):
            raise ValueError(f"more than {_DEEP} levels")
        if b"\\u" in text:  # only an escape can give a surrogate or NUL
            json.dumps(record, ensure_ascii=False).encode()
            if b"\\u0000" in text:
                raise ValueError("a NUL in it")
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(f"{where}: is no JSON ({' '.join(str(error).split()):.80})") from None
    return record


def checked(record: object, form: type[T], where: Path | str) -> T:
    """Check that a record has a form, and return it; further entries are allowed.

    Args:
        record: the parsed JSON.
        form: a TypedDict.
        where: the source of the record, for the message.

    Raises:
        BrokenRecord: it does not have the form; the message names the first wrong entry.
    """
    from pydantic import ValidationError  # imported here: it would slow down the command's help

    try:
        _adapter(cast(Any, form)).validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = printable(".".join(str(part) for part in first["loc"] if part != "[key]"))[:120]
        reason = first["msg"].removeprefix("Value error, ")[:120]
        raise BrokenRecord(f"{where}: {place + ': ' if place else ''}{reason}") from None
    return cast(T, record)


def _number(text: str) -> int | float:
    number = int(text) if text.lstrip("-").isdecimal() else float(text)
    if not abs(number) < _LARGE:  # true for NaN too
        raise ValueError(f"{text:.20} is no number of a record")
    return number


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):  # programs differ in which of the two they read
        names = [name for name, _ in pairs]
        twice = next(name for name in entries if names.count(name) > 1)
        raise ValueError(f"{printable(twice)[:40]} is there twice")
    return entries


def _decoder(nan: bool) -> json.JSONDecoder:
    def constant(text: str) -> float:
        return float("nan") if nan and text == "NaN" else _number(text)

    return json.JSONDecoder(
        parse_float=_number, parse_int=_number, parse_constant=constant, object_pairs_hook=_entries
    )


_DECODER, _WITH_NAN = _decoder(nan=False), _decoder(nan=True)


def _is_deep(record: object) -> bool:
    """Return whether lists and dicts are nested too deep for functions that call themselves."""
    level = [record] if isinstance(record, dict | list) else []
    for _ in range(_DEEP):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inner for each in values if isinstance(each, dict | list)]
        if not level:
            return False
    return True


@cache
def _adapter(form: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(form)
