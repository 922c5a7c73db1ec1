"""``petseg predict`` on photos of every kind."""

import csv
import json
import os
import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from typer.testing import CliRunner, Result

from petseg.cli import app
from petseg.core.parallel import in_order
from petseg.core.textfiles import write_json
from petseg.errors import DamagedFile, DataError, StoreError, UsageError
from petseg.models.device import set_up_torch
from petseg.models.masking import Thresholds, cleaned, cut
from petseg.models.predictor import OwnSize, at_own_size
from petseg.params import OUTPUTS, Edge
from petseg.predict.cutting import Memory, highest_of, why_empty
from petseg.predict.load import choose
from petseg.predict.photos import find_photos
from petseg.predict.pictures import alpha_of, contact_sheet
from petseg.store.champion import promote
from petseg.store.layout import ABOUT, MANIFEST, WEIGHTS
from petseg.store.run import StoredRun
from tests.support import ROOT
from tests.support.pets import HEIC, encoded, picture
from tests.support.runs import make_run

KEY, OTHER = "aaaa111122223333", "bbbb111122223333"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two finished runs."""
    root = tmp_path_factory.mktemp("project")
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    make_run(root / "runs" / KEY, "unet")
    make_run(root / "runs" / OTHER, "unet", width=6)
    return root


@pytest.fixture
def project(store: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the project as the working folder, with photos of several sizes in photos/."""
    root = tmp_path / "project"
    shutil.copytree(store, root, copy_function=shutil.copy)
    for name, size in (("a.jpg", (60, 40)), ("b.png", (90, 120)), ("below/c.webp", (64, 64))):
        write(root / "photos" / name, picture(len(name), size))
    with chdir(root):
        yield root


def write(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[path.suffix]
    path.write_bytes(encoded(image, kind, **options))


def predict(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["predict", "--model", KEY[:4], *arguments])
    if code == 0 and result.exception:
        raise result.exception
    assert result.exit_code == code
    return result


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_each_photo_gets_a_mask_an_overlay_and_a_cutout(project: Path) -> None:
    printed = predict("photos", "--out", "out").output
    assert "3 photos cut out" in printed
    assert f"run {KEY}, tight masks, threshold 0.27" in printed
    names = {f"{kind}/{name}.{suffix}" for name in ("a", "b", "below/c") for kind, suffix in (
        ("masks", "png"), ("overlays", "jpg"), ("cutouts", "png")
    )}  # fmt: skip
    assert files(project / "out").keys() == names | {"sheet.jpg"}
    for name, size in (("a", (60, 40)), ("b", (90, 120)), ("below/c", (64, 64))):
        mask, cutout = (pixels(project / f"out/{kind}/{name}.png") for kind in ("masks", "cutouts"))
        assert pixels(project / f"out/overlays/{name}.jpg").shape == (*size[::-1], 3)
        assert mask.shape == size[::-1]
        assert set(np.unique(mask)) <= {0, 255}
        assert 0 < (mask == 255).mean() < 1
        assert ((cutout[..., 3] == 255) == (mask == 255)).all()
        assert not cutout[cutout[..., 3] == 0].any()


def test_a_mask_is_that_of_the_network(project: Path) -> None:
    predictor = choose(project, KEY, set_up_torch("cpu", 1)).predictor
    small = predictor.probability_of(Image.open(project / "photos/b.png"))
    chosen: Thresholds = {"whole": 0.45, "tight": 0.27}
    for place, (edge, limit) in enumerate(zip(OUTPUTS, (0.5, 0.25), strict=True)):
        thresholds: Thresholds = {**chosen, edge: limit}
        for as_is, found in ((True, small), (False, cleaned(small, thresholds))):
            options = ["--edge", edge, "--threshold", f"{limit}", "--force", *(["--as-is"] if as_is else [])]
            predict("photos/b.png", "--out", "out", *options)
            expected = cut(at_own_size(found, (120, 90)), thresholds)[place]
            assert (expected == (pixels(project / "out/masks/b.png") == 255)).all()


def test_a_cutout_fades_over_the_border_strip(project: Path) -> None:
    """It is opaque in the tight mask, and fades within the whole one."""
    alpha, masks = {}, {}
    for edge in OUTPUTS:
        predict("photos/b.png", "--out", "out", "--edge", edge, "--as-is", "--force")
        alpha[edge] = pixels(project / "out/cutouts/b.png")[..., 3]
        masks[edge] = pixels(project / "out/masks/b.png") == 255
    assert (masks["whole"] >= masks["tight"]).all()
    assert ((alpha["tight"] == 255) == masks["tight"]).all()
    assert not alpha["tight"][~masks["whole"]].any()
    strip = masks["whole"] & ~masks["tight"]
    assert len(np.unique(alpha["tight"][strip])) > 10
    assert ((alpha["whole"] >= 128) == masks["whole"]).all()


def test_only_pixels_next_to_the_mask_fade() -> None:
    """A part of the whole mask without a tight pixel is not drawn, nor the rim of a dropped island."""
    limits: Thresholds = {"whole": 0.5, "tight": 0.5}
    whole = np.array([[0.9, 0.9, 0.1, 0.9, 0.1, 0.45]], np.float32)
    tight = np.array([[0.9, 0.48, 0.1, 0.48, 0.1, 0.1]], np.float32)
    cases: list[tuple[NDArray[np.float32], Edge, list[int]]] = [
        (np.stack([whole, tight]), "tight", [255, 229, 0, 0, 0, 0]),
        (np.stack([whole, tight]), "whole", [255, 255, 0, 255, 0, 0]),
        (np.stack([whole, tight * 0.5]), "tight", [0] * 6),
        (np.stack([whole, whole]), "tight", [255, 255, 0, 255, 0, 0]),
    ]
    for probability, edge, expected in cases:
        alpha = alpha_of(OwnSize(probability, (1, 6), limits), edge)
        assert alpha[0].tolist() == expected


def test_batch_size_and_other_photos_do_not_change_a_byte(project: Path) -> None:
    predict("photos", "--out", "one", "--batch-size", "1")
    predict("photos", "--out", "many", "--batch-size", "32")
    predict("photos/a.jpg", "--out", "alone", "-batch_size", "7")
    assert files(project / "one") == files(project / "many")
    assert files(project / "alone")["masks/a.png"] == files(project / "one")["masks/a.png"]


def test_pictures_are_upright_by_exif(project: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(project / "turned.jpg", picture(0), exif=exif)
    predict("turned.jpg", str(HEIC), "--out", "out")
    for name in ("turned.jpg", "turned.heic"):  # two photos of one name keep their suffixes
        mask = pixels(project / f"out/masks/{name}.png")
        assert mask.shape == {"turned.jpg": (60, 40), "turned.heic": (64, 48)}[name]


def test_a_photo_keeps_its_colour_profile_and_nothing_else(project: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010E] = "at home"
    write(project / "p.jpg", picture(0), icc_profile=profile, exif=exif)
    predict("p.jpg", "--out", "out")
    for path in ("out/overlays/p.jpg", "out/cutouts/p.png"):
        with Image.open(project / path) as made:
            assert made.info["icc_profile"] == profile
            assert not made.getexif()


def test_a_bad_file_is_named_and_left_out(project: Path) -> None:
    (project / "photos/aa.jpg").write_bytes(b"no photo")
    (project / "photos/cut.jpg").write_bytes((project / "photos/a.jpg").read_bytes()[:-200])
    result = predict("photos", "--out", "out", "--csv", "t.csv", code=3)
    assert "photos/aa.jpg: not a picture of a known format; left out" in result.stderr
    assert "photos/cut.jpg: can't be decoded" in result.stderr
    assert "3 photos cut out" in result.stdout
    assert "bad files: 2" in result.stdout
    with (project / "t.csv").open(newline="") as file:
        rows = {row["photo"]: row for row in csv.DictReader(file)}
    assert [*rows] == [f"photos/{name}" for name in ("a.jpg", "aa.jpg", "b.png", "below/c.webp", "cut.jpg")]
    assert rows["photos/aa.jpg"]["problem"] == "not a picture of a known format"
    good = rows["photos/b.png"]
    assert (good["width"], good["height"], good["problem"]) == ("90", "120", "")
    coverage = (pixels(project / "out/masks/b.png") == 255).mean()
    assert float(good["coverage"]) == pytest.approx(coverage)
    model = choose(project, KEY, set_up_torch("cpu", 1))
    photo = Image.open(project / "photos/b.png")
    small = cleaned(model.predictor.probability_of(photo), model.thresholds)
    enlarged, place = at_own_size(small, (120, 90)), OUTPUTS.index("tight")
    probability = enlarged[place]
    sure = np.maximum(probability, 1 - probability)
    of_pet = cut(enlarged, model.thresholds)[place]
    expected = np.where(of_pet, probability, 1 - probability).mean()
    assert float(good["confidence"]) == pytest.approx(expected, abs=1e-6)
    assert expected <= sure.mean()


def test_strict_stops_at_the_first_bad_file(project: Path) -> None:
    (project / "photos/aa.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"photos/aa.jpg: file is empty"):
        predict("photos", "--out", "out", "--strict", "--batch-size", "1")
    assert (project / "out/masks/a.png").exists()
    assert not (project / "out/masks/b.png").exists()


def test_nothing_is_overwritten_without_force(project: Path) -> None:
    predict("photos", "--out", "out")
    before = files(project / "out")
    with pytest.raises(UsageError, match=r"out/\S+ and 9 more files are there already; --force"):
        predict("photos", "--out", "out", "--threshold", "0.9")
    assert files(project / "out") == before
    predict("photos", "--out", "out", "--threshold", "0.9", "--force")
    after = files(project / "out")
    assert after.keys() == before.keys()
    assert after["masks/a.png"] != before["masks/a.png"]


def test_an_interrupted_prediction_is_resumed(project: Path) -> None:
    predict("photos/a.jpg", "--out", "out")
    before = (project / "out/masks/a.png").stat().st_mtime_ns
    assert "2 photos cut out" in predict("photos", "--out", "out", "--resume").output
    assert (project / "out/masks/a.png").stat().st_mtime_ns == before
    assert "0 photos cut out" in predict("photos", "--out", "out", "--resume").output


def test_resuming_replaces_nothing_and_adds_to_the_table(project: Path) -> None:
    predict("photos/a.jpg", "--out", "out", "--csv", "t.csv")
    (project / "out/masks/b.png").write_bytes(b"somebody's own")
    sheet = (project / "out/sheet.jpg").read_bytes()
    (project / "photos/bad.jpg").write_bytes(b"")
    for _ in range(2):
        predict("photos", "--out", "out", "--resume", "--csv", "t.csv", code=3)
    assert (project / "out/masks/b.png").read_bytes() == b"somebody's own"
    assert (project / "out/cutouts/b.png").exists()
    assert (project / "out/sheet.jpg").read_bytes() == sheet
    with (project / "t.csv").open(newline="") as file:
        names = [row["photo"] for row in csv.DictReader(file)]
    assert sorted(names) == [f"photos/{name}" for name in ("a.jpg", "b.png", "bad.jpg", "below/c.webp")]


FOREIGN = {
    "contacts": b"name,phone\nAda,1\n",
    "a column more": b"photo,width,height,coverage,confidence,problem,note\n",
    "a cell more": b"photo,width,height,coverage,confidence,problem\na.jpg,1,1,1,1,,mine\n",
    "no text": b"\xff\xfe\x00",
    "no lines": b"\n\n",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_table_is_not_extended(project: Path, kind: str) -> None:
    (project / "t.csv").write_bytes(FOREIGN[kind])
    with pytest.raises(UsageError, match=r"t\.csv: is no table of petseg predict, whose columns are photo, "):
        predict("photos/a.jpg", "--out", "out", "--resume", "--csv", "t.csv")
    assert (project / "t.csv").read_bytes() == FOREIGN[kind]
    assert not (project / "out").exists()


def test_a_replaced_table_does_not_change_other_links_to_it(project: Path) -> None:
    (project / "kept.csv").write_text("name,phone\n")
    (project / "t.csv").hardlink_to("kept.csv")
    with pytest.raises(UsageError, match=r"t\.csv is there already; --force"):
        predict("photos/a.jpg", "--out", "out", "--csv", "t.csv")
    predict("photos/a.jpg", "--out", "out", "--csv", "t.csv", "--resume", "--force")
    assert (project / "kept.csv").read_text() == "name,phone\n"
    assert (project / "t.csv").read_text().startswith("photo,width,")
    (project / "empty.csv").touch()
    predict("photos/b.png", "--out", "out", "--csv", "empty.csv", "--resume")
    assert "photos/b.png" in (project / "empty.csv").read_text()
    assert not list(project.glob(".*.tmp"))


def test_a_leading_tilde_is_the_home_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project / "below"))
    write(project / "below/mine/one.jpg", picture(1))
    for file in (WEIGHTS, ABOUT):
        shutil.copy(project / "runs" / OTHER / file, project / "below")
    printed = predict("~/mine/*.jpg", "--out=~/cut", "--csv=~/t.csv", f"--model=~/{WEIGHTS}").stdout
    assert f"of run {OTHER}" in printed
    assert (project / "below/cut/masks/one.png").is_file()
    assert "one.jpg" in (project / "below/t.csv").read_text()
    assert not (project / "~").exists()


def test_a_pipe_or_a_device_among_the_photos_is_a_bad_file(project: Path) -> None:
    os.mkfifo(project / "photos/pipe.jpg")
    (project / "photos/zero.jpg").symlink_to("/dev/zero")
    result = predict("photos", "photos/pipe.jpg", "--out", "out", code=3)
    assert "photos/zero.jpg: can't be read: is no regular file; left out" in result.stderr
    assert "photos/pipe.jpg: can't be read: is no regular file; left out" in result.stderr
    assert "3 photos cut out" in result.stdout


def test_irregular_and_huge_files_are_named_and_the_rest_is_predicted(project: Path) -> None:
    with (project / "photos/sparse.jpg").open("wb") as sparse:
        sparse.truncate(40_000_000_000)
    (project / "photos/status.png").symlink_to("/proc/self/status")
    (project / "photos/null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("photos/listening.jpg")
        os.mkfifo(project / "photos/pipe.webp")
        result = predict("photos", "--out", "out", code=3)
    for name in ("status.png", "null.png", "listening.jpg", "pipe.webp"):
        assert f"photos/{name}: can't be read: is no regular file; left out" in result.stderr
    assert "sparse.jpg: can't be read: has 40,000,000,000 bytes, more than 200,000,000" in result.stderr
    assert "3 photos cut out" in result.stdout


def test_a_photo_in_strips_gets_the_same_bits(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are made in columns and pictures in rows, and a turned photo uses a temporary file."""
    exif = Image.Exif()
    exif[0x0112] = 8
    for seed in range(3):
        write(project / f"large/{seed}.png", picture(seed, (300, 211)), exif=exif)
    for edge in OUTPUTS:
        predict("large", "--out", f"at once {edge}", "--edge", edge, "--as-is", "--csv", f"{edge}.csv")
    monkeypatch.setattr("petseg.models.predictor._STRIP_PX", 5_000)
    monkeypatch.setattr("petseg.predict.pictures._BAND_PX", 5_000)
    monkeypatch.setattr("petseg.data.images._BAND_PX", 5_000)
    monkeypatch.setattr("petseg.data.images._LARGE_PX", 5_000)
    for edge in OUTPUTS:
        predict("large", "--out", f"strips {edge}", "--edge", edge, "--as-is", "--csv", f"{edge} strips.csv")
        assert files(project / f"at once {edge}") == files(project / f"strips {edge}")
        rows, again = (
            [*csv.DictReader((project / f"{edge}{name}.csv").read_text().splitlines())]
            for name in ("", " strips")
        )
        assert [float(row["coverage"]) for row in again] == [float(row["coverage"]) for row in rows]
        confidence = [[float(row["confidence"]) for row in table] for table in (rows, again)]
        assert confidence[1] == pytest.approx(confidence[0])


@pytest.mark.parametrize("seed", range(3))
def test_fading_parts_are_found_across_bands(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    coarse = np.random.default_rng(seed).uniform(0.2, 0.6, (2, 40, 50)).astype(np.float32)
    coarse[1] = np.minimum(*coarse)
    own = OwnSize(coarse, (40, 50), {"whole": 0.45, "tight": 0.42})
    alphas = {edge: alpha_of(own, edge) for edge in OUTPUTS}
    assert all(((alpha > 0) & (alpha < 128)).any() for alpha in alphas.values())
    monkeypatch.setattr("petseg.predict.pictures._BAND_PX", 100)  # two rows
    for edge, alpha in alphas.items():
        assert np.array_equal(alpha_of(own, edge), alpha)


def test_photos_share_a_memory_limit() -> None:
    memory, worked = Memory(10), []

    def work() -> None:
        with memory.of(5):
            worked.append("other")

    with ThreadPoolExecutor(1) as pool:
        with memory.of(6):
            other = pool.submit(work)
            with memory.of(4):
                worked.append("first")
            assert not other.done()
        other.result(timeout=60)
    assert worked == ["first", "other"]


@pytest.mark.parametrize("name", ["two\nlines.jpg", "odd\udcff.jpg", "\x1b[31mred.jpg"])
def test_names_may_have_any_characters(project: Path, name: str) -> None:
    write(project / "odd" / name, picture(0))
    (project / "odd" / f"empty {name}").write_bytes(b"")
    result = predict("odd", "--out", "out", "--csv", "t.csv", code=3)
    assert len(result.stderr.splitlines()) == 2  # the line of the empty file, and the progress
    assert result.stderr.replace("\n", "").isprintable()
    assert (project / "t.csv").read_text().isascii()
    assert len(list((project / "out/masks").iterdir())) == 1


def test_a_name_that_is_too_long_is_a_bad_file(project: Path) -> None:
    write(project / "photos" / f"{'n' * 250}.jpg", picture(0))
    result = predict("photos", "--out", "out", code=3)
    assert "its name is too long for its pictures; left out" in result.stderr
    assert "3 photos cut out" in result.stdout


def test_an_unusable_output_is_refused_before_the_work(project: Path) -> None:
    (project / "file").write_text("")
    with pytest.raises(UsageError, match="--out file: must be a folder"):
        predict("photos", "--out", "file")
    with pytest.raises(UsageError, match="--csv photos: must be a file"):
        predict("photos", "--out", "out", "--csv", "photos")


@pytest.mark.parametrize(
    ("whole", "tight", "thresholds", "edge", "reason"),
    [
        (0.998, 0.998, (1, 1), "whole", "is 0.998, and pet begins at 1; a threshold of 0.9 would"),
        (0.009, 0.009, (0.01, 0.01), "tight", "; a threshold of 0.0081 would show something"),
        (0.14, 0.1, (0.5, 0.5), "whole", "sees no cat or dog: its highest probability is 0.14"),
        (0.6, 0.4, (0.5, 0.5), "tight", "is 0.4, and pet begins at 0.5; a threshold of 0.36 would"),
        # The tight mask is within the whole one, so here its own threshold is not why it is empty.
        (0.4, 0.35, (0.5, 0.3), "tight", "is 0.4, and pet begins at 0.5; with the whole edge, a "),
    ],
)
def test_the_reason_of_an_empty_mask_is_correct(
    whole: float, tight: float, thresholds: tuple[float, float], edge: Edge, reason: str
) -> None:
    probability = np.array([[[0, whole]], [[0, tight]]], np.float32)
    by: Thresholds = dict(zip(OUTPUTS, thresholds, strict=True))
    assert reason in why_empty(OwnSize(probability, (1, 2), by), edge)


def test_the_highest_tight_probability_counts_within_the_whole_mask() -> None:
    probability = np.array([[[0.6, 0.4]], [[0.1, 0.35]]], np.float32)
    by: Thresholds = {"whole": 0.5, "tight": 0.3}
    assert not cut(probability, by)[1].any()
    limit, highest = highest_of(OwnSize(probability, (1, 2), by), "tight")
    assert (limit, round(highest, 3)) == ("tight", 0.1)


def test_an_empty_mask_is_reported_with_its_reason(project: Path) -> None:
    result = predict("photos/a.jpg", "--out", "out", "--threshold", "1", "--json")
    summary = json.loads(result.stdout)
    assert summary["empty"] == ["photos/a.jpg"]
    assert (summary["done"], summary["failed"], summary["threshold"]) == (1, {}, 1)
    assert "photos/a.jpg: empty mask; the model" in result.stderr
    assert not pixels(project / "out/masks/a.png").any()


def test_photos_are_found_once_and_not_in_the_output(project: Path) -> None:
    write(project / "photos/out/masks/old.png", picture(1))
    (project / "photos/gone.jpg").symlink_to("nowhere")
    (project / "photos/notes.txt").write_text("no photo")
    found = find_photos(["photos", "photos/a.jpg", "photos/*.jpg"], Path("photos/out"))
    assert [photo.name for photo in found] == ["a", "b", "below/c", "gone"]
    assert [photo.name for photo in find_photos(["photos"], Path("photos"))][:3] == ["a", "b", "below/c"]
    assert [photo.name for photo in find_photos(["photos/**/*.webp"], Path("out"))] == ["c"]
    write(project / "photos/a.png", picture(1))
    assert [photo.name for photo in find_photos(["photos/a*"], Path("out"))] == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such photo or folder"),
        ([""], "an empty name is no photo"),
        (["photos/*.gif"], "no photo matches it as a pattern"),
        (["runs"], "runs: no photo is in this folder"),
        (["photos/a.jpg", "twin/a.jpg"], "photos/a.jpg and twin/a.jpg would have the same name"),
    ],
)
def test_a_name_without_a_photo_is_refused(project: Path, wanted: list[str], reason: str) -> None:
    write(project / "twin/a.jpg", picture(5))
    with pytest.raises(UsageError, match=reason):
        predict(*wanted, "--out", "out")
    assert not (project / "out").exists()


def test_the_model_is_the_named_one_the_champion_or_the_last_trained(project: Path) -> None:
    def name(*model: str) -> str:
        result = CliRunner().invoke(app, ["predict", "photos/a.jpg", "--json", "--force", *model])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return str(json.loads(result.stdout)["model"])

    for key in (KEY, OTHER):  # folds of a cross-validation, which are not chosen by themselves
        manifest = json.loads((project / "runs" / key / MANIFEST).read_text())
        write_json(project / "runs" / key / MANIFEST, manifest | {"split": {"split.fold": 0}})
    with pytest.raises(UsageError, match="there is no model yet: dvc repro trains one"):
        name()
    with pytest.raises(UsageError, match="there is no champion yet"):
        name("--model", "champion")
    (project / "models").mkdir()
    for file in (WEIGHTS, ABOUT):
        shutil.copy(project / "runs" / OTHER / file, project / "models")
    assert f"of run {OTHER}" in name()
    promote(StoredRun.open(project / "runs" / KEY), force=True)
    assert name() == f"run {KEY}, the champion"
    assert name("-model", "bbbb") == f"run {OTHER}"
    assert f"of run {OTHER}" in name("--model", "models/model.safetensors")
    with pytest.raises(UsageError, match="cccc: no such run"):
        name("--model", "cccc")
    (project / "models" / ABOUT).unlink()
    with pytest.raises(DamagedFile, match=r"model.json, which describes the network, is not beside"):
        name("--model", "models/model.safetensors")
    (project / "runs" / OTHER / WEIGHTS).write_bytes(b"broken")
    with pytest.raises(DamagedFile, match=f"{OTHER}/{WEIGHTS}: differs from its recorded hash"):
        name("--model", OTHER)


def test_a_run_that_is_no_network_is_refused(project: Path) -> None:
    manifest = project / "runs" / KEY / "manifest.json"
    manifest.write_text(manifest.read_text().replace("finished", "running"))
    with pytest.raises(StoreError, match="is not finished, or nothing says what its network is"):
        predict("photos", "--out", "out")


def test_the_contact_sheet_has_the_first_24(project: Path) -> None:
    for n in range(30):
        write(project / f"many/{n:02}.jpg", picture(n))
    predict("many", "--out", "out")
    height, width, _ = pixels(project / "out/sheet.jpg").shape
    assert (width, height) == contact_sheet([("x", picture(0))] * 24).size
    assert contact_sheet([("a name that is much too long for its cell", picture(0))]).width < 300


def test_only_a_few_photos_are_read_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    results = in_order(lambda n: n * n, items(), at_once=5)
    assert [next(results)[1].result() for _ in range(10)] == [n * n for n in range(10)]
    assert len(taken) == 14
