"""Files of the pipeline that differ from what its stages write: a line names each, and nothing is drawn."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from petseg.cli import app
from petseg.core.textfiles import write_json
from petseg.data.masks import load_masks, save_masks
from petseg.errors import DataError
from petseg.pipeline.dvcfiles import stage_paths
from tests.support import ROOT
from tests.support.results import IN_USE, KEY, write_results

TABLES = {
    "history.csv": "curves",
    "test/per_image.csv": "breeds",
    "test/thresholds.csv": "thresholds",
    "test/calibration.csv": "calibration",
    "test/breeds.csv": None,
}
MASKS = {"evolution.npz": "evolution", "test/predictions.npz": "confusion"}
VIEWS = ("curves", "evolution", "best", "worst", "random", "breeds", "histogram", "thresholds", "confusion")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("made") / "made").folder.parent


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A project with the results of a pipeline, which a test may damage."""
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    path = stage_paths(tmp_path, "plot")
    for source, name in (
        ("pets", "arrays"), ("evolution.npz", "evolution"), ("history.csv", "history"), ("test", "results"),
    ):  # fmt: skip
        path[name].parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (made / source).is_dir() else shutil.copy)(made / source, path[name])
    write_json(stage_paths(tmp_path, "train")["weights"].with_suffix(".json"), {"run_key": KEY})
    with chdir(tmp_path):
        yield tmp_path


def place(project: Path, name: str) -> Path:
    """Return the pipeline's path of a file, by its name among the files of ``write_results``."""
    path = stage_paths(project, "plot")
    folder, _, file = name.rpartition("/")
    own = {"history.csv": path["history"], "evolution.npz": path["evolution"]}
    return own[name] if name in own else {"test": path["results"], "pets": path["arrays"]}[folder] / file


def refusal_of(*command: str) -> str:
    """Run a command that must fail with one line and draw nothing; return the line."""
    result = CliRunner().invoke(app, [*command, "--out", "out.svg"])
    assert isinstance(result.exception, DataError), (result.exception, result.output)
    assert "\n" not in str(result.exception)
    assert not Path("out.svg").exists()
    return str(result.exception)


ODD_TABLES: dict[str, Callable[[str], bytes]] = {
    "empty": lambda text: b"",
    "header only": lambda text: text.splitlines(keepends=True)[0].encode(),
    "no header": lambda text: text.partition("\n")[2].encode(),
    "a column less": lambda text: re.sub(r"^[^,]*,", "", text, flags=re.MULTILINE).encode(),
    "longer rows": lambda text: re.sub(r"(\d)$", r"\1,1,2,3,4", text, flags=re.MULTILINE).encode(),
    "text for numbers": lambda text: re.sub(r"\d\.\d+", "much", text).encode(),
    "more digits than a float has": lambda text: re.sub(r"\d\.\d+", "9" * 400, text).encode(),
    "infinity": lambda text: re.sub(r"\d\.\d+", "1e999", text).encode(),
    "no text": lambda text: b"\xff\xfe\x00" * 9,
    "an open quote": lambda text: text.replace("\n", '\n"', 1).encode(),
    "JSON": lambda text: b'{"a": [1, 2]}',
}


@pytest.mark.parametrize("odd", ODD_TABLES)
@pytest.mark.parametrize("name", TABLES)
def test_an_odd_table_is_named(project: Path, name: str, odd: str) -> None:
    path, view = place(project, name), TABLES[name]
    path.write_bytes(ODD_TABLES[odd](path.read_text()))
    line = rf"{re.escape(str(path))}: can't be read \(.+\); run dvc repro, or dvc pull"
    for command in [("report",), *([("evaluate", view)] if view else [])]:
        assert re.fullmatch(line, refusal_of(*command))


ODD_JSON = {
    "a list": "[]", "a list of numbers": "[1]", "a number": "5", "null": "null", "no JSON": "{", "empty": "",
    "NaN": '{"threshold": NaN}', "a text for a number": '{"run_key": 5, "threshold": "much"}',
    "deep": "[" * 99_999,
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD_JSON)
def test_an_odd_json_file_is_named(project: Path, odd: str) -> None:
    path = place(project, "test/scores.json")
    path.write_text(ODD_JSON[odd])
    assert f"{path}: can't be read" in refusal_of("report")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("boundary", "edge"),
        ("boundary", 3),
        ("threshold", None),
        ("photos", 1.5),
        ("all_foreground", []),
        ("answers", {"foreground": "wide"}),
        ("thresholds", 0.5),
        ("cleaned_masks", "no"),
        ("cleaned", 0.5),
        ("boundary_background", {"dice_per_image": "much"}),
    ],
)
def test_odd_scores_are_named(project: Path, key: str, value: object) -> None:
    path = place(project, "test/test.json")
    write_json(path, json.loads(path.read_text()) | {key: value})
    for command in (("report",), ("evaluate", "histogram"), ("evaluate", "confusion")):
        assert f"{path}: can't be read (test.json: {key}" in refusal_of(*command)


def masks_like(path: Path, spoil: Callable[[dict[str, Any]], object]) -> bytes:
    with np.load(path) as file:
        arrays = dict(file)
    spoil(arrays)
    np.savez(path, **arrays)
    return path.read_bytes()


@pytest.mark.parametrize("key", ["5", "[1]", "null", '"../.."', '"a b"', '{"a": 1}'])
def test_an_invalid_key_names_no_run(project: Path, key: str) -> None:
    stage_paths(project, "train")["weights"].with_suffix(".json").write_text(f'{{"run_key": {key}}}')
    result = CliRunner().invoke(app, ["evaluate", "curves"])
    assert str(result.exception) == "nothing has been trained and scored here yet; dvc repro does both"


ODD_MASKS: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "text": lambda path: b"name,dice",
    "the first half": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "flipped": lambda path: bytes(byte ^ (90 < n < 400) for n, byte in enumerate(path.read_bytes())),
    "its middle gone": lambda path: path.read_bytes()[:90] + path.read_bytes()[-300:],
    "one array": lambda path: (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }".ljust(118)
        + b"1"
    ),
    "no rows": lambda path: masks_like(path, lambda arrays: arrays.pop("rows")),
    "other rows": lambda path: masks_like(path, lambda arrays: arrays.update(rows=arrays["rows"][1:])),
    "rows that are texts": lambda path: masks_like(
        path, lambda arrays: arrays.update(rows=arrays["rows"].astype(str))
    ),
    "no shape": lambda path: masks_like(path, lambda arrays: arrays.update(shape=np.array([]))),
    "another shape": lambda path: masks_like(path, lambda arrays: arrays.update(shape=arrays["shape"] + 1)),
    "a text as shape": lambda path: masks_like(path, lambda arrays: arrays.update(shape=np.array("wide"))),
    "numbers of another kind": lambda path: masks_like(
        path, lambda arrays: arrays.update(packed=arrays["packed"] / 2)
    ),
    "no photo": lambda path: masks_like(
        path,
        lambda arrays: arrays.update(
            packed=arrays["packed"][:0],
            shape=arrays["shape"] * (np.arange(len(arrays["shape"])) > 0),
            rows=arrays["rows"][:0],
        ),
    ),
}


@pytest.mark.parametrize("odd", ODD_MASKS)
@pytest.mark.parametrize("name", MASKS)
def test_odd_masks_are_named(project: Path, name: str, odd: str) -> None:
    path = place(project, name)
    path.write_bytes(ODD_MASKS[odd](path))
    line = rf"{re.escape(str(path))}: can't be read as packed masks \(.+\); run dvc repro, or dvc pull"
    for command in (("report",), ("evaluate", MASKS[name])):
        assert re.fullmatch(line, refusal_of(*command))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("rows", [99, -99])
def test_masks_of_other_photos_are_named(project: Path, name: str, rows: int) -> None:
    path = place(project, name)
    masks_like(path, lambda arrays: arrays.update(rows=arrays["rows"] + rows))
    assert f"{path}: is of other photos than" in refusal_of("evaluate", MASKS[name])


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_another_size_are_named(project: Path, name: str) -> None:
    path = place(project, name)
    masks, beside = load_masks(path)
    save_masks(path, masks[..., ::2, ::2], **beside)
    assert f"{path}: is of other photos than" in refusal_of("evaluate", MASKS[name])


ODD_PHOTOS: dict[str, Callable[[Path], object]] = {
    "no index": lambda pets: (pets / "index.csv").write_text(""),
    "an index without names": lambda pets: (pets / "index.csv").write_text("photo\n" + "a\n" * 21),
    "an archive": lambda pets: shutil.copy(pets.parent / "masks.npz", pets / "images.npy"),
    "half an archive": lambda pets: (pets / "images.npy").write_bytes(b"PK\x03\x04 and no more"),
    "texts": lambda pets: np.save(pets / "trimaps.npy", np.full((21, 32, 32), "pet")),
    "floats": lambda pets: np.save(pets / "images.npy", np.zeros((21, 32, 32, 3))),
    "a few bytes": lambda pets: (pets / "images.npy").write_bytes(b"\x93NUMPY\x01"),
    "a huge shape": lambda pets: (pets / "images.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999999999999,), }".ljust(118)
    ),
}


@pytest.mark.parametrize("odd", ODD_PHOTOS)
def test_odd_packed_photos_are_named(project: Path, odd: str) -> None:
    pets = stage_paths(project, "plot")["arrays"]
    np.savez(pets.parent / "masks.npz", np.zeros(3))
    ODD_PHOTOS[odd](pets)
    assert f"{pets}: can't read the packed photos" in refusal_of("evaluate", "best")


def test_a_history_without_a_validation_dice_is_named(project: Path) -> None:
    path = place(project, "history.csv")
    head, row = path.read_text().splitlines()[:2]
    path.write_text(f"{head}\n{row.replace(',0.4,', ',,')}\n")
    for command in (("report",), ("evaluate", "curves")):
        assert f"{path}: no epoch has a validation Dice; run dvc repro" in refusal_of(*command)


@pytest.mark.parametrize("undefined", [True, False])
def test_undefined_scores_and_single_rows_are_drawn(project: Path, undefined: bool) -> None:
    """A score can be undefined, and a table can have a single row. No view may fail for that."""
    for name in TABLES:
        path = place(project, name)
        text = path.read_text()
        if not undefined and name != "test/per_image.csv":
            text = "".join(text.splitlines(keepends=True)[:2])
        if undefined and name != "history.csv":
            text = re.sub(r",0\.\d\d\d+", ",", text)
        path.write_text(text)
    if undefined:
        path = place(project, "test/test.json")
        headlines = json.loads(path.read_text(), parse_float=lambda text: None)
        write_json(path, headlines | {"threshold": 0.5, "thresholds": IN_USE})
    for command in [("report",), *(("evaluate", view) for view in VIEWS)]:
        result = CliRunner().invoke(app, [*command, "--out", "out.svg", "--force"])
        assert result.exit_code == 0, (command, result.exception)
