"""JSON that people may have edited: it is valid, or refused in a line that names the file and the entry."""

import os
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.core.checked import MOST_BYTES, Count, Name, Share, parsed, read_bounded, read_record
from petseg.errors import BrokenRecord

DEEP = "[" * 65 + "]" * 65


class Form(TypedDict):
    count: Count
    share: NotRequired[Share | None]
    name: NotRequired[Name]
    inner: NotRequired[dict[str, list[int]]]


def test_a_valid_record_is_returned_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_text('{"count": 3, "share": 1, "more": {"any": [1.5, null]}}')
    assert read_record(path, Form) == {"count": 3, "share": 1, "more": {"any": [1.5, None]}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"count": true}', "count: Input should be a valid integer"),
        ('{"count": 1.0}', "count: Input should be a valid integer"),
        ('{"count": "1"}', "count: Input should be a valid integer"),
        ('{"count": -1}', "count: Input should be greater than or equal to 0"),
        ('{"count": 99999999999999999999}', "count: Input should be less than or equal to"),
        ('{"share": 0.5}', "count: Field required"),
        ('{"count": 1, "share": 1.01}', "share: Input should be less than or equal to 1"),
        ('{"count": 1, "share": false}', "share: Input should be a valid number"),
        ('{"count": 1, "name": "../x"}', "name: Predicate"),
        ('{"count": 1, "name": ""}', "name: String should have at least 1 character"),
        (
            '{"count": 1, "inner": {"a\\nb\\u001b": ["x"]}}',
            r"inner.a\nb\x1b.0: Input should be a valid integer",
        ),
        ('{"count": NaN}', "is no JSON (NaN is no number of a record)"),
        ('{"count": -Infinity}', "is no JSON (-Infinity is no number of a record)"),
        ('{"count": 1e999}', "is no JSON (1e999 is no number of a record)"),
        ('{"count": 1, "count": 2}', "is no JSON (count is there twice)"),
        ('{"count": 1, "x": {"a\\n": 1, "a\\n": 2}}', r"is no JSON (a\n is there twice)"),
        (f'{{"count": 1, "x": {DEEP}}}', "is no JSON (more than 64 levels)"),
        ("[" * 99_999, "is no JSON (maximum recursion depth exceeded"),
        ('{"count": ' + "1" * 5000 + "}", "is no JSON (Exceeds the limit (4300 digits)"),
        ('{"count": 1, "x": "\\ud800"}', "is no JSON ('utf-8' codec can't encode character"),
        ('{"count": 1, "x": "\\u0000"}', "is no JSON (a NUL in it)"),
        ("[]", "Input should be a valid dictionary"),
        ("null", "Input should be a valid dictionary"),
        ("", "is no JSON (Expecting value"),
        ("\xff", "is no JSON ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_an_invalid_record_is_refused_with_the_file_and_the_entry(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BrokenRecord) as refused:
        read_record(path, Form)
    line = str(refused.value)
    assert line.startswith(f"{path}: {reason}")
    assert "\n" not in line
    assert line.isprintable()
    assert len(line) < 400


def put(path: Path, what: str) -> None:
    """Put something that is not a record at the path of a record."""
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 30)  # sparse: takes no space on the disk


@pytest.mark.parametrize("what", ["folder", "pipe", "device", "a gigabyte"])
def test_what_is_no_regular_file_or_too_large_is_not_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "record.json"
    put(path, what)
    reason = "has 1,073,741,824 bytes, more than 16,777,216" if what == "a gigabyte" else "is no regular file"
    with pytest.raises(BrokenRecord, match=f"{path}: {reason}"):
        read_record(path, Form)


def test_a_file_may_be_as_large_as_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b" " * (MOST_BYTES - 2) + b"{}")
    assert parsed(read_bounded(path, MOST_BYTES), path) == {}
    with pytest.raises(BrokenRecord, match="more than 16 MB"):
        parsed(path.read_bytes() + b" ", path)


def test_nan_is_read_where_it_is_allowed(tmp_path: Path) -> None:
    found: Any = parsed(b'{"val_dice": NaN}', "checkpoint", nan=True)
    assert found["val_dice"] != found["val_dice"]
    with pytest.raises(BrokenRecord, match="Infinity is no number"):
        parsed(b'{"val_dice": Infinity}', "checkpoint", nan=True)
