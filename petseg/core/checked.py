"""JSON that anybody may have edited or damaged, read as what it must be, or refused in one line.

What is read stays a plain dict, byte for byte what a seal was made of; a form is a TypedDict.
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
# A manifest of ten thousand epochs takes 2 MB. The worst 16 MB of JSON, empty lists, take 500 MB once read.
MOST_BYTES, MOST_BYTES_OF_LINES = 16 << 20, 64 << 20
_DEEP, _LARGE = 64, 1e300

Count = Annotated[int, Ge(0), Le(1 << 62)]
Share = Annotated[float, Ge(0), Le(1)]  # a probability, a threshold
Name = Annotated[str, Len(1, 64), Predicate(str.isalnum)]  # of a folder of the store: it leads nowhere else


def read_record(path: Path, form: type[T]) -> T:
    """Read a JSON file that holds one record.

    Raises:
        BrokenRecord: it is not what it must be.
        OSError: it can't be read.
    """
    return checked(read_json(path), form, path)


def read_json(path: Path) -> Any:
    """Read a JSON file of any content.

    Raises:
        BrokenRecord: it is no JSON.
        OSError: it can't be read.
    """
    return parsed(read_bounded(path, MOST_BYTES), path)


def read_bounded(path: Path, most: int) -> bytes:
    """Return a regular file's bytes, if there are at most ``most``.

    Raises:
        BrokenRecord: there are more, or it is a folder, a pipe or a device.
        OSError: it can't be read.
    """
    try:
        return read_file(path, most)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EOVERFLOW):
            raise
        raise BrokenRecord(f"{path}: {error.strerror}") from None


def parsed(text: bytes, where: Path | str, nan: bool = False) -> Any:
    """Return what JSON says.

    Args:
        text: UTF-8.
        where: it was read from, for the message.
        nan: whether it may say NaN, as the descriptions of checkpoints do.

    Raises:
        BrokenRecord: it is none, or says what no record does: numbers that can't be written, an entry twice,
            half a surrogate pair, NUL, or lists in lists without end.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MB")
        record = (_WITH_NAN if nan else _DECODER).decode(text.decode())
        if text.count(b"[") + text.count(b"{") > _DEEP and _is_deep(record):
            raise ValueError(f"more than {_DEEP} levels")
        if b"\\u" in text:  # else it has neither of these
            json.dumps(record, ensure_ascii=False).encode()
            if b"\\u0000" in text:
                raise ValueError("a NUL in it")
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(f"{where}: is no JSON ({' '.join(str(error).split()):.80})") from None
    return record


def checked(record: object, form: type[T], where: Path | str) -> T:
    """Return a record once it is what it must be; it may hold more.

    Args:
        record: what was read.
        form: a TypedDict.
        where: it was read from, for the message.

    Raises:
        BrokenRecord: it is not; the text names the first entry that is wrong.
    """
    from pydantic import ValidationError  # not above: the command's help would wait for it

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
    if not abs(number) < _LARGE:  # NaN neither
        raise ValueError(f"{text:.20} is no number of a record")
    return number


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):  # which of the two a reader takes is anybody's guess
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
    """Tell whether lists and dicts lie in each other deeper than functions may call themselves."""
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
