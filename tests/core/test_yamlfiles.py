"""YAML of unknown origin: too large or too deep a file, and values that are not plain, are refused."""

import os
from pathlib import Path

import pytest

from petseg.core.textfiles import read_yaml, yaml_value
from petseg.core.yamlfiles import MAX_BYTES, MAX_DEPTH, parsed
from petseg.errors import ParamsError
from petseg.params import load_params
from tests.support import ROOT

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 9}]}}\n" for n in range(1, 12))

ODD = {
    "a date": ("a: {b: 2024-01-01}", r"a\.b: 2024-01-01 is of the type timestamp; only text"),
    "no date": ("a: {b: 2024-13-45}", r"a\.b: 2024-13-45 is of the type timestamp"),
    "binary": ("b: !!binary aGk=", r"b: aGk= is of the type binary"),
    "an object": (
        "b: !!python/object:os.system {x: 1}",
        r"b: a list or section is of the type python",
    ),
    "an object's name": ("b: !!python/name:os.system ''", r"b:  is of the type python/name:os\.system"),
    "a tag of one's own": ("b: [1, !mine x]", r"b\[1\]: x is of the type !mine"),
    "a set": ("b: !!set {x, y}", r"b: a list or section is of the type set"),
    "pairs": ("b: !!omap [x: 1]", r"b: a list or section is of the type omap"),
    "no integer": ("b: !!int abc", r"b: abc can't be read as int"),
    "no float": ("b: !!float abc", r"b: abc can't be read as float"),
    "no truth": ("b: !!bool maybe", r"b: maybe can't be read as bool"),
    "an empty integer": ("b: !!int ''", r"b:  can't be read as int"),
    "a huge integer": (f"b: {'9' * 5000}", r"b: 9{80} can't be read as int$"),
    "a key twice": ("a: {b: 1, c: 2, b: 3}", r"a\.b: is there twice"),
    "a number as a key": ("a: {1: x}", r"a: 1 is a key, but no text"),
    "nothing as a key": ("a: {~: x}", r"a: ~ is a key, but no text"),
    "a list as a key": ("? [a, b]\n: c", r"a list or section is a key, but no text"),
    "a date as a key": ("2024-01-01: x", r"2024-01-01 is of the type timestamp"),
    "nothing to merge": ("a: {<<: 3}", r"is not valid YAML: line 1, column 9: expected a mapping"),
    "an alias of nothing": ("a: *b", r"is not valid YAML: line 1, column 4: found undefined alias 'b'"),
    "two documents": ("a: 1\n---\nb: 2", r"is not valid YAML: line 2"),
    "a letter that there is not": ('a: "\\UFFFFFFFF"', r"is not valid YAML"),
    "a control character": ("a: \x07", r"is not valid YAML"),
    "an escape sequence in a key": ('"\\e[31mred": !!int x', r"\\x1b\[31mred: x can't be read as int"),
}
TOO_MUCH = {
    "aliases": (BOMB, "has more than 20,000 values, with those that its aliases repeat"),
    "merged sections": (MERGED, "has more than 20,000 values"),
    "lists in lists": ("[" * 5000, f"has more than {MAX_DEPTH} levels of sections and lists"),
    "sections in sections": (
        "".join(f"{' ' * n}a:\n" for n in range(300)),
        f"has more than {MAX_DEPTH} levels of sections and lists",
    ),
    "itself": ("a: &a [1, *a]", "has an alias that repeats the section or list around it"),
    "itself merged": ("a: &a {<<: *a}", "has an alias that repeats the section or list around it"),
    "text": ("a" * (MAX_BYTES + 1), "has more than 200,000 bytes"),
    "values": ("[" + "1," * 30_000 + "]", "has more than 20,000 values"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_value_is_refused_with_its_key(tmp_path: Path, kind: str) -> None:
    text, message = ODD[kind]
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ParamsError, match=f"^odd.yaml: {message}") as error:
        read_yaml(tmp_path / "odd.yaml")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("kind", TOO_MUCH)
def test_yaml_that_is_too_large_or_too_deep_is_refused(kind: str) -> None:
    text, message = TOO_MUCH[kind]
    with pytest.raises(ParamsError, match=message):
        parsed(text)


def test_plain_values_are_read_as_dvc_reads_them() -> None:
    text = "a: &a {x: 1e-4, y: 0o17, z: 1:30}\nb: {<<: *a, x: 2}\nc: [.inf, no, true, ~, '1', 010]\nd: *a"
    known = {"x": 1e-4, "y": 15, "z": "1:30"}
    assert parsed(text) == {
        "a": known,
        "b": known | {"x": 2},
        "c": [float("inf"), "no", True, None, "1", 10],
        "d": known,
    }
    assert parsed("") is None
    assert yaml_value("2024-01-01") == "2024-01-01"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "epochs: 50",
            "epochs: 2024-01-01",
            r"params.yaml: train.epochs: 2024-01-01 is of",
        ),
        ("learning_rate: 5.0e-2", "learning_rate: 1e400", "train.learning_rate: inf must be a finite number"),
        ("source: sample", "source: !!binary aGk=", "params.yaml: data.source: aGk= is of the type binary"),
        ("epochs: 50", f"epochs: {'9' * 4000}", r"train.epochs: 9{80} must be"),
        ("epochs: 50", "epochs: 1:30", "train.epochs: '1:30' must be a valid integer"),
        ("flip: 0.5", "flip: 0.5\n  flip: 0.6", "params.yaml: augment.flip: is there twice"),
        ("flip: 0.5", "flip: 0.5\n  7: 0.6", "params.yaml: augment: 7 is a key, but no text"),
    ],
)
def test_a_mistake_in_params_yaml_is_named_by_its_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ParamsError, match=message):
        load_params(tmp_path / "params.yaml")


def test_what_is_no_regular_file_or_too_large_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.mkdir()
    with pytest.raises(ParamsError, match=r"^params.yaml: is no regular file$"):
        read_yaml(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ParamsError, match=r"^params.yaml: is no regular file$"):
        read_yaml(path)
    path.unlink()
    for place in ("/dev/zero", "/proc/self/status"):
        path.symlink_to(place)
        with pytest.raises(ParamsError, match=r"^params.yaml: is no regular file$"):
            read_yaml(path)
        path.unlink()
    with path.open("wb") as file:
        file.truncate(40_000_000_000)
    with pytest.raises(ParamsError, match=r"^params.yaml: has 40,000,000,000 bytes, more than 200,000$"):
        read_yaml(path)
