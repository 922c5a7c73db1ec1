"""The Python API."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import petseg
from petseg.core.textfiles import write_csv, write_json
from petseg.errors import BadImage, DamagedFile, UsageError
from petseg.predict import load
from petseg.store.export import export_folder
from petseg.store.layout import ABOUT, DECISION, WEIGHTS
from petseg.store.run import StoredRun
from tests.support import ROOT
from tests.support.pets import sample_photos
from tests.support.runs import make_run

KEY = "aaaa111122223333"
(JPEG,) = sample_photos(1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one finished run, and a photo."""
    root = tmp_path_factory.mktemp("project")
    (root / ".dvc").mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    run = make_run(root / "runs" / KEY, "unet", spread=True)
    write_csv(run.folder / "evaluations/e/breeds.csv", [{"breed": "pug", "photos": 5, "dice_per_image": 0.5}])
    (root / "rex.jpg").write_bytes(JPEG)
    return root


@pytest.fixture
def project(template: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(template)
    return template


@pytest.fixture
def model(project: Path) -> petseg.Model:
    return petseg.load(KEY[:6])


def test_a_cut_has_the_bits_of_petseg_predict(project: Path, model: petseg.Model, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "petseg",
        "predict",
        "rex.jpg",
        "--model",
        KEY,
        "--out",
        str(tmp_path / "a"),
    ]
    subprocess.run(command, check=True, cwd=project, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    written = model.predict("rex.jpg").save(tmp_path / "b")
    assert set(written) == {"masks", "overlays", "cutouts"}
    for path in written.values():
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()


def test_everything_has_the_photos_own_size_and_its_documented_type(model: petseg.Model) -> None:
    width, height = Image.open(io.BytesIO(JPEG)).size
    cut = model.predict("rex.jpg")
    assert cut.mask.shape == (height, width)
    assert cut.mask.dtype == np.bool_
    assert cut.probability.shape == (height, width)
    assert cut.probability.dtype == np.float32
    assert 0 <= cut.probability.min() <= cut.probability.max() <= 1
    assert (cut.cutout.size, cut.cutout.mode) == ((width, height), "RGBA")
    assert (cut.overlay.size, cut.overlay.mode) == ((width, height), "RGB")
    assert cut.coverage == cut.mask.mean()
    assert repr(cut).startswith(f"<petseg.Cut {width}x{height}, tight, ")


def test_the_mask_follows_edge_and_threshold(model: petseg.Model) -> None:
    tight, whole = model.predict("rex.jpg"), model.predict("rex.jpg", edge="whole")
    assert tight.threshold == model.thresholds["tight"]
    assert not (tight.mask & ~whole.mask).any()
    cut = model.predict("rex.jpg", edge="whole", threshold=0.6, as_is=True)
    np.testing.assert_array_equal(cut.mask, cut.probability >= np.float32(0.6))


def test_a_path_a_picture_and_an_array_give_the_same(model: petseg.Model) -> None:
    picture = Image.open(io.BytesIO(JPEG))
    wanted = model.predict("rex.jpg")
    for given in (Path("rex.jpg"), JPEG, picture, np.asarray(picture)):
        np.testing.assert_array_equal(model.predict(given).probability, wanted.probability)
    grey = picture.convert("L")
    np.testing.assert_array_equal(model.predict(np.asarray(grey)).mask, model.predict(grey).mask)


def test_a_picture_is_turned_upright_and_stays_as_it_is(model: petseg.Model) -> None:
    picture = Image.open(io.BytesIO(JPEG)).transpose(Image.Transpose.ROTATE_90)
    picture.getexif()[0x0112] = 6  # to be turned by 270 degrees
    before = picture.tobytes()
    assert model.predict(picture).photo.size == picture.size[::-1]
    assert picture.tobytes() == before


def test_several_photos_are_a_list_or_an_iterator(model: petseg.Model) -> None:
    wanted = model.predict("rex.jpg")
    cuts = model.predict(["rex.jpg", Path("rex.jpg")])
    assert isinstance(cuts, list)
    assert [cut.name for cut in cuts] == ["rex", "rex"]
    np.testing.assert_array_equal(cuts[1].probability, wanted.probability)
    assert model.predict([]) == []

    taken: list[int] = []

    def photos() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield "rex.jpg"

    iterator = model.predict(photos())
    assert isinstance(next(iterator), petseg.Cut)
    assert len(taken) < 50


def test_the_callers_number_of_threads_stays(model: petseg.Model) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        model.predict(["rex.jpg"])
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (np.zeros((4, 4, 3)), r"an array of float64 of shape \(4, 4, 3\) is no photo"),
        (np.zeros((3, 4, 4), np.uint8), r"an array of uint8 of shape \(3, 4, 4\) is no photo"),
        (np.zeros((0, 4, 3), np.uint8), "is no photo"),
        (7, "photos: a int is no photo"),
        ([None], "photos: a NoneType is no photo"),
    ],
)
def test_what_is_no_photo_is_refused(model: petseg.Model, given: object, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        model.predict(given)  # type: ignore[call-overload]


def test_a_bad_file_is_named(model: petseg.Model, tmp_path: Path) -> None:
    (bad := tmp_path / "bad.jpg").write_bytes(b"GIF89a")
    for photos in (bad, [bad]):
        with pytest.raises(BadImage, match=r"bad\.jpg: "):
            model.predict(photos)
    with pytest.raises(BadImage, match=r"gone\.jpg: can't be read: No such file"):
        model.predict("gone.jpg")


def test_wrong_arguments_are_refused(model: petseg.Model) -> None:
    with pytest.raises(UsageError, match="edge: 'soft' must be one of whole, tight"):
        model.predict("rex.jpg", edge="soft")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="threshold: 2 must be above 0"):
        model.predict("rex.jpg", threshold=2)


def test_files_are_not_overwritten_unless_asked_for(model: petseg.Model, tmp_path: Path) -> None:
    cut = model.predict("rex.jpg")
    cut.save(tmp_path)
    with pytest.raises(UsageError, match=r"rex\.png is there already; replace=True replaces it"):
        cut.save(tmp_path)
    cut.save(tmp_path, replace=True)
    cut.save(tmp_path, "other")
    nameless = model.predict(cut.photo)
    with pytest.raises(UsageError, match="a picture from memory needs one"):
        nameless.save(tmp_path)
    with pytest.raises(UsageError, match=r"name: '\.\./x' is no file name"):
        nameless.save(tmp_path, "../x")


def test_an_exported_folder_is_the_same_model(model: petseg.Model, tmp_path: Path) -> None:
    export_folder(StoredRun.open(Path("runs", KEY)), tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "card.md",
        "decision.json",
        "model.json",
        "model.safetensors",
    ]
    other = petseg.load(tmp_path / "model")
    assert other.thresholds == model.thresholds
    np.testing.assert_array_equal(other.predict("rex.jpg").probability, model.predict("rex.jpg").probability)
    write_json(tmp_path / "model" / DECISION, {"thresholds": {}})
    with pytest.raises(DamagedFile, match=r"decision\.json: holds no decision"):
        petseg.load(tmp_path / "model")


def test_the_packages_model_comes_first_for_the_api_and_last_for_the_command(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_CARRIED", tmp_path / "carried")
    cpu = torch.device("cpu")
    assert petseg.load().name.startswith(f"run {KEY}")
    export_folder(StoredRun.open(project / "runs" / KEY), tmp_path / "carried")
    assert petseg.load().name == "the model of this package"
    assert load.choose(project, None, cpu).name.startswith(f"run {KEY}")
    monkeypatch.chdir(tmp_path)
    assert load.choose(tmp_path, None, cpu).name == "the model of this package"


def test_outside_a_project_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"no project of petseg in {tmp_path} or above"):
        petseg.load()


@pytest.mark.whole
def test_importing_petseg_imports_nothing_that_is_slow() -> None:
    code = "import sys, petseg; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"torch", "numpy", "PIL", "pydantic", "typer"} & set(loaded.stdout.split())


def test_the_api_has_its_names() -> None:
    assert set(petseg.__all__) <= set(dir(petseg)) | {"Cut", "Model"}
    with pytest.raises(AttributeError, match="module 'petseg' has no attribute 'nothing'"):
        petseg.nothing  # noqa: B018


def test_the_notebook_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "docs/python.ipynb").read_text())
    export_folder(StoredRun.open(project / "runs" / KEY), tmp_path / "carried")
    monkeypatch.setattr(load, "_CARRIED", tmp_path / "carried")
    monkeypatch.chdir(tmp_path)
    Path("rex.jpg").write_bytes(JPEG)
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert sorted(path.name for path in Path("out").rglob("rex.*")) == ["rex.jpg", "rex.png", "rex.png"]


def test_weights_and_their_description_are_enough(project: Path, tmp_path: Path) -> None:
    for name in (WEIGHTS, ABOUT):
        shutil.copy(project / "runs" / KEY / name, tmp_path)
    assert petseg.load(tmp_path / WEIGHTS).predict("rex.jpg").mask.any()
