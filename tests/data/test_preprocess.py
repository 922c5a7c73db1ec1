import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from petseg.core.files import sha256_file
from petseg.data.arrays import PetArrays, RowWriter
from petseg.data.preprocess import Report, first_originals, pack
from petseg.errors import ArchiveError, DataError
from petseg.params import Params, SplitParams
from tests.support import MINI, PEAK_KB, ROOT
from tests.support.pets import PetFolder, encoded, picture, trimap

SPLIT = SplitParams(seed=0, test_fraction=0.2, val_fraction=0.25, folds=None, fold=None)


def packed(
    archives: Path, to: Path, size: int = 32, max_rejected: float = 1.0, split: SplitParams = SPLIT
) -> tuple[PetArrays, Report]:
    report = pack(archives, to / "pets", to / "rejected.csv", size, max_rejected, split)
    return PetArrays.open(to / "pets"), report


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.iterdir()}


def test_packed_photos_are_listed_with_their_part(pets: PetFolder, tmp_path: Path) -> None:
    arrays, report = packed(pets.write(), tmp_path)
    assert arrays.images.shape == (16, 32, 32, 3)
    assert arrays.trimaps.shape == (16, 32, 32)
    assert report.summary() == {
        "listed": 16, "kept": 16, "train": 9, "val": 3, "test": 4, "rejected": 0, "ignored_files": 0,
    }  # fmt: skip
    assert list(arrays.index["name"]) == sorted(pets.lists["trainval"] + pets.lists["test"])
    row = arrays.index.set_index("name").loc["pug_3"]
    assert row.to_dict() == {"breed": "pug", "species": "dog", "split": "train", "width": 60, "height": 40}
    tests = set(arrays.index.loc[arrays.rows("test"), "name"])
    assert tests == set(pets.lists["test"])


def test_the_order_of_an_archive_does_not_change_the_bytes(pets: PetFolder, tmp_path: Path) -> None:
    packed(pets.write(), tmp_path / "one")
    pets.photos = dict(reversed(pets.photos.items()))
    pets.trimaps = dict(reversed(pets.trimaps.items()))
    packed(pets.write(), tmp_path / "other")
    assert hashes(tmp_path / "one/pets") == hashes(tmp_path / "other/pets")


def test_the_arrays_do_not_depend_on_the_split(pets: PetFolder, tmp_path: Path) -> None:
    packed(pets.write(), tmp_path / "one")
    packed(pets.folder, tmp_path / "other", split=SPLIT.model_copy(update={"seed": 1}))
    one, other = hashes(tmp_path / "one/pets"), hashes(tmp_path / "other/pets")
    assert one["images.npy"] == other["images.npy"]
    assert one["index.csv"] != other["index.csv"]


def test_every_refusal_has_a_reason(pets: PetFolder, tmp_path: Path) -> None:
    jpeg = encoded(picture(50), "JPEG")
    pets.photos["images/Bengal_0.jpg"] = jpeg[:-200]
    pets.photos["images/Bengal_1.jpg"] = b""
    del pets.photos["images/Bengal_2.jpg"]
    del pets.trimaps["annotations/trimaps/pug_0.png"]
    pets.trimaps["annotations/trimaps/pug_1.png"] = encoded(trimap((40, 60)), "PNG")
    pets.photos["images/pug_2.jpg"] = pets.photos["images/pug_7.jpg"]  # pug_7 is a test photo
    pets.lists["trainval"].append("Bengal_7")  # listed in test too
    pets.extra = {
        "images/._Bengal_0.jpg": b"\0",
        "images/Abyssinian_101.mat": b"x",
        "images/stray_1.jpg": jpeg,
    }
    arrays, report = packed(pets.write(), tmp_path)
    assert dict(report.rejected) == {
        "Bengal_0": "can't be decoded: image file is truncated (82 bytes not processed)",
        "Bengal_1": "file is empty",
        "Bengal_2": "listed, but absent from images.tar.gz",
        "Bengal_7": "listed again in annotations/trainval.txt; the first listing counts",
        "pug_0": "its trimap is absent from annotations.tar.gz",
        "pug_1": "trimap is 40x60, its photo 60x40",
        "pug_2": "the same photo as pug_7",
    } | {"Bengal_0": dict(report.rejected)["Bengal_0"]}
    assert "truncated" in dict(report.rejected)["Bengal_0"]
    assert dict(report.ignored) == {
        "images/._Bengal_0.jpg": "AppleDouble file of a Mac",
        "images/Abyssinian_101.mat": "not used: .mat",
        "images/stray_1.jpg": "in no list",
    }
    table = pd.read_csv(tmp_path / "rejected.csv")
    assert len(table) == 10
    assert set(table["verdict"]) == {"rejected", "ignored"}
    assert set(arrays.index["name"]).isdisjoint(set(dict(report.rejected)) - {"Bengal_7"})
    # The remaining rows have the right photos, though rows between them were dropped.
    for name in ("Bengal_3", "pug_7"):
        other = PetFolder(tmp_path / "whole")
        whole, _ = packed(other.write(), tmp_path / "again")
        row, its = (list(a.index["name"]).index(name) for a in (arrays, whole))
        assert (arrays.images[row] == whole.images[its]).all()


def test_too_many_refusals_are_an_error_and_leave_the_report(pets: PetFolder, tmp_path: Path) -> None:
    pets.photos["images/Bengal_0.jpg"] = b"x"
    pets.photos["images/pug_0.jpg"] = b"x"
    with pytest.raises(DataError, match=r"2 of 16 listed photos were rejected.*max_rejected \(0.1\)"):
        packed(pets.write(), tmp_path, max_rejected=0.1)
    assert "Bengal_0,rejected," in (tmp_path / "rejected.csv").read_text()
    packed(pets.folder, tmp_path, max_rejected=0.125)


def test_no_photo_is_packed_twice(pets: PetFolder, tmp_path: Path) -> None:
    pets.photos["images/Bengal_1.jpg"] = pets.photos["images/Bengal_0.jpg"]
    recompressed = picture(3)
    pets.photos["images/pug_1.jpg"] = encoded(recompressed, "PNG")
    pets.photos["images/pug_7.jpg"] = encoded(recompressed, "PNG", compress_level=1)
    arrays, report = packed(pets.write(), tmp_path)
    assert dict(report.rejected) == {
        "Bengal_1": "the same photo as Bengal_0",
        "pug_1": "the same photo as pug_7",  # the test photo stays
    }
    pixels = {image.tobytes() for image in np.array(arrays.images)}
    assert len(pixels) == len(arrays.images) == 14


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pets: pets.lists.update(trainval=[]), "no photo is left for train"),
        (lambda pets: pets.lists.update(trainval=[], test=[]), "the lists name no photo"),
        (lambda pets: pets.lists["test"].append("../../etc/passwd"), "line 5: '../../etc/passwd 1 2 1'"),
        (lambda pets: pets.lists.pop("test"), r"annotations/test.txt missing"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(
    pets: PetFolder, tmp_path: Path, spoil: object, message: str
) -> None:
    assert callable(spoil)
    spoil(pets)
    with pytest.raises(DataError, match=message):
        packed(pets.write(), tmp_path)


def test_an_absent_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"images\.tar\.gz: no such file"):
        packed(tmp_path, tmp_path)


def test_validation_is_stratified_and_exact(tmp_path: Path, params: Params) -> None:
    arrays, report = packed(ROOT / "data/sample", tmp_path, split=params.split)
    assert (report.counts["train"], report.counts["val"], report.counts["test"]) == (275, 48, 261)
    index = arrays.index
    trainval = index[index["split"] != "test"]
    for breed, photos in trainval.groupby("breed"):
        share = (photos["split"] == "val").sum()
        assert abs(share - 0.15 * len(photos)) <= 1, breed
    rows = [set(arrays.rows(part)) for part in ("train", "val", "test")]
    assert len(set.union(*rows)) == sum(map(len, rows)) == 584
    another = params.split.model_copy(update={"seed": 1})
    other, _ = packed(ROOT / "data/sample", tmp_path / "other", split=another)
    assert set(other.rows("val")) != set(arrays.rows("val"))


@pytest.mark.whole
def test_folds_divide_trainval_among_them(tmp_path: Path) -> None:
    seen: list[int] = []
    for fold in range(5):
        split = SplitParams(seed=0, test_fraction=0.2, val_fraction=0.15, folds=5, fold=fold)
        arrays, report = packed(ROOT / "data/sample", tmp_path / str(fold), split=split)
        assert report.counts["val"] in (64, 65)
        seen += list(arrays.rows("val"))
    assert sorted(seen) == sorted([*arrays.rows("train"), *arrays.rows("val")])


def test_rows_can_be_written_in_any_order_and_dropped(tmp_path: Path) -> None:
    values = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3)
    writer = RowWriter(tmp_path / "a.npy", 5, (2, 3))
    for row in (3, 0, 4, 2):
        writer.write(row, values[row])
    writer.close([0, 2, 4])
    assert (np.load(tmp_path / "a.npy") == values[[0, 2, 4]]).all()


def test_arrays_of_different_photos_are_refused(pets: PetFolder, tmp_path: Path) -> None:
    packed(pets.write(), tmp_path)
    index = tmp_path / "pets/index.csv"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match="do not belong together"):
        PetArrays.open(tmp_path / "pets")
    with pytest.raises(DataError, match="can't read the packed photos"):
        PetArrays.open(tmp_path / "nowhere")


def test_originals_have_their_own_size(pets: PetFolder) -> None:
    (name, photo), *rest = first_originals(pets.write(), {"pug_0", "pug_1", "pug_2"}, 2)
    assert name == "pug_0"
    assert photo.shape == (40, 60, 3)
    assert len(rest) == 1


@pytest.mark.whole
def test_memory_does_not_grow_with_the_photos(pets: PetFolder, tmp_path: Path) -> None:
    """3,000 photos of 256x256 make 590 MB of rows; the process must use far less memory."""
    many = PetFolder(tmp_path / "many", trainval=2990, test=10)
    many.write()
    code = (
        "from pathlib import Path; import sys\n"
        f"{PEAK_KB}\n"
        "from petseg.data.preprocess import pack; from petseg.params import SplitParams\n"
        "split = SplitParams(seed=0, test_fraction=0.2, val_fraction=0.1, folds=None, fold=None)\n"
        "a, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "print(pack(a, out / 'pets', out / 'r.csv', 256, 1.0, split).summary()['kept'])\n"
        "print(peak_kb())"
    )
    command = [sys.executable, "-c", code, str(many.folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    kept, kilobytes = done.stdout.split()
    assert int(kept) == 3000
    assert int(kilobytes) < 400_000


@pytest.mark.whole
@pytest.mark.skipif(not MINI.is_dir(), reason="the folder of original photos is not beside the checkout")
def test_oddities_of_the_official_archives_are_listed(tmp_path: Path, params: Params) -> None:
    _, report = packed(MINI, tmp_path, size=16, max_rejected=0.0, split=params.split)
    reasons = {reason for _, reason in report.ignored}
    assert reasons == {
        "AppleDouble file of a Mac",
        "in no list",
        "not used: .mat",
        "trimap of no listed photo",
    }
    assert report.summary()["kept"] == 584
