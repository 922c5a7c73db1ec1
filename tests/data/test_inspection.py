"""The report of ``petseg doctor --data`` on a data set."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petseg.cli.doctor.data import look_at_data
from petseg.cli.output import Answer
from petseg.data.archives import ANNOTATIONS, PHOTOS
from petseg.data.inspected import doubt_of, open_source
from petseg.data.inspection import Inspection, inspect
from petseg.data.preprocess import pack
from petseg.errors import DownloadError, ParamsError, UsageError
from petseg.params import Masks, SplitParams
from tests.support import ROOT
from tests.support.pets import OwnFolder, PetFolder, encoded, mask, packed, picture, trimap

SPLIT = SplitParams(seed=0, test_fraction=0.25, val_fraction=0.25, folds=None, fold=None)


def inspected(source: Path, masks: Masks = "binary_255", split: SplitParams = SPLIT) -> Inspection:
    return inspect(open_source(str(source), masks, Path("/none"), Path("/none")), 32, split)


def reasons_of(found: Inspection) -> dict[str, tuple[str, str]]:
    return {suspicion.name: (suspicion.verdict, suspicion.reason) for suspicion in found.suspicions}


def refused_names(found: Inspection) -> set[str]:
    return {name for name, (verdict, _) in reasons_of(found).items() if verdict == "refused"}


@pytest.fixture
def own(tmp_path: Path) -> OwnFolder:
    return OwnFolder(tmp_path / "own", tuple(f"pet_{n}" for n in range(8)))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has what the command needs of a project."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("source: sample", "source: ../own").replace("masks: trimap", "masks: binary_255")
    (folder / "params.yaml").write_text(text)
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "stages").mkdir()
    shutil.copy(ROOT / "stages/download.py", folder / "stages")
    monkeypatch.chdir(folder)
    return folder


def test_a_good_folder_is_described(own: OwnFolder) -> None:
    own.write("groups.csv", "name,group\npet_0,home\npet_1,home\n")
    found = inspected(own.folder)
    assert (found.photos, found.masks, found.pairs, found.suspicions) == (8, 8, 8, [])
    assert found.parts == {"train": 5, "val": 1, "test": 2}
    assert found.drawn == ["test", "val"]
    assert found.groups == {"home": 2}
    assert set(found.sizes) == {(60, 40)}
    pet = int((np.asarray(trimap()) != 2).sum())
    assert found.values == {255: 8 * pet, 0: 8 * (60 * 40 - pet)}
    assert found.coverages == [pytest.approx(pet / 2400)] * 8
    assert [pair.name for pair in found.sheet] == [f"pet_{n}" for n in range(8)]
    own.write("test.txt", "pet_3")
    own.write("val.txt", "pet_4")
    assert inspected(own.folder).drawn == []


def test_every_suspicious_pair_has_its_reason(own: OwnFolder, tmp_path: Path) -> None:
    png = encoded(mask(), "PNG")
    for n in range(20, 29):
        own.write(f"images/pet_{n}.jpg", encoded(picture(n), "JPEG"))
        own.write(f"masks/pet_{n}.png", png)
    values = np.asarray(mask())
    own.write("masks/pet_20.png", encoded(Image.fromarray(0 * values), "PNG"))
    own.write("masks/pet_21.png", encoded(Image.fromarray(0 * values + 255), "PNG"))
    own.write("masks/pet_22.png", encoded(Image.fromarray(255 - values), "PNG"))
    own.write("masks/pet_23.png", encoded(mask("binary_1"), "PNG"))
    own.write("masks/pet_24.png", encoded(Image.fromarray(values.T.copy()), "PNG"))
    own.write("masks/pet_25.png", b"x")
    own.write("images/pet_26.jpg", b"x")
    (own.folder / "masks/pet_27.png").unlink()
    own.write("images/pet_28.jpg", (own.folder / "images/pet_0.jpg").read_bytes())
    own.write("test.txt", "pet_28\npet_2")
    own.write("groups.csv", "name,group\npet_2,home\npet_3,home\n")
    own.write("masks/nobody.png", png)
    found = inspected(own.folder)
    reasons = reasons_of(found)
    assert reasons == {
        "group home": ("stops", "pet_2 is in test, pet_3 in trainval: a group must be on one side"),
        "pet_0": ("refused", "the same photo as pet_28, and in trainval where that one is in test"),
        "pet_20": ("look", "its mask is empty: no pixel is pet"),
        "pet_21": ("look", "its mask is full: every pixel is pet"),
        "pet_22": ("look", "its mask looks inverted: most of the frame is pet, most of the middle is not"),
        "pet_23": (
            "refused", "its mask holds 1, which data.masks: binary_255 does not allow; did you mean binary_1?"
        ),
        "pet_24": (
            "refused", "its mask is 40x60, the photo 60x40 (was it drawn before the photo was turned?)"
        ),
        "pet_25": ("refused", "its mask not a picture of a known format"),
        "pet_26": ("refused", "not a picture of a known format"),
        "pet_27": ("refused", "no picture of this name in masks/"),
    }  # fmt: skip
    assert [suspicion.verdict for suspicion in found.suspicions] == ["stops"] + ["refused"] * 6 + ["look"] * 3
    assert found.refused == 6
    assert found.ignored == {"mask of no photo": 1}
    (own.folder / "groups.csv").unlink()
    _, report = packed(own, tmp_path)
    assert {name for name, _ in report.rejected} == refused_names(found)
    assert report.counts == found.parts
    assert {pair.name for pair in found.sheet if pair.reason} == {f"pet_{n}" for n in (0, 20, 21, 22, 24)}


def test_a_split_that_cannot_be_made_is_named(own: OwnFolder) -> None:
    too_many = SPLIT.model_copy(update={"folds": 9, "fold": 0})
    assert reasons_of(inspected(own.folder, split=too_many))["split"] == (
        "stops", "split.folds: 9 folds can't be made of 6 groups of photos"
    )  # fmt: skip
    own.write("test.txt", "")
    own.write("val.txt", "pet_0")
    own.write("test.txt", "\n".join(f"pet_{n}" for n in range(1, 8)))
    assert reasons_of(inspected(own.folder)) == {"train": ("stops", "no photo would be left for train")}


@pytest.mark.parametrize(
    ("trimap", "doubt"),
    [
        (trimap(), None),
        (Image.fromarray(4 - np.asarray(trimap())), None),  # the strip of border and the middle are pet
        (Image.new("L", (9, 9), 3), "empty"),
        (Image.new("L", (9, 9), 1), "full"),
        (Image.new("L", (1, 1), 2), "empty"),
        (Image.fromarray(np.pad(np.full((8, 8), 2, np.uint8), 4, constant_values=1)), "inverted"),
        (
            Image.fromarray(np.tile(np.array([[1], [1], [2]], np.uint8), 30)),
            None,
        ),  # the pet touches the frame
    ],
)
def test_doubtful_masks_have_a_reason(trimap: Image.Image, doubt: str | None) -> None:
    found = doubt_of(np.asarray(trimap))
    assert found is None if doubt is None else found is not None and doubt in found


def test_inspection_refuses_what_preprocess_refuses(pets: PetFolder, tmp_path: Path) -> None:
    pets.photos["images/Bengal_1.jpg"] = pets.photos["images/pug_7.jpg"]
    del pets.photos["images/Bengal_2.jpg"]
    del pets.trimaps["annotations/trimaps/pug_0.png"]
    pets.trimaps["annotations/trimaps/pug_1.png"] = encoded(mask(), "PNG")
    pets.lists["trainval"].append("Bengal_7")
    found = inspected(pets.write(), "trimap")
    assert reasons_of(found) == {
        "Bengal_1": ("refused", "the same photo as pug_7, and in trainval where that one is in test"),
        "Bengal_2": ("refused", f"listed, but absent from {PHOTOS}"),
        "Bengal_7": ("refused", "listed again in annotations/trainval.txt; the first listing counts"),
        "pug_0": ("refused", f"its mask is absent from {ANNOTATIONS}"),
        "pug_1": ("refused", "its trimap holds the value 0, expected only 1, 2 and 3"),
    }
    report = pack(pets.folder, tmp_path / "pets", tmp_path / "rejected.csv", 32, 1.0, SPLIT)
    assert {name for name, _ in report.rejected} == refused_names(found)
    assert report.counts == found.parts
    assert found.species == {"cat": 8, "dog": 8}
    assert found.parts == {"train": 6, "val": 2, "test": 4}


def show(answer: Answer, as_json: bool = False) -> bool:
    """Print an answer, and return whether nothing is suspicious."""
    answer.print(as_json)
    return answer.exit_code == 0


def test_the_command_prints_the_inspection(
    own: OwnFolder, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(tmp_path.rglob("*"))
    assert show(look_at_data(None, None, None))
    printed = capsys.readouterr().out
    for part in (
        "a folder of photos and masks", "0 background, 255 pet", "8 photos, 8 masks, 8 pairs",
        "train 6, val 1, test 1 (test and val drawn by split)", "none given", "min 60, median 60, max 60",
        "255 pet", "█", "nothing suspicious",
    ):  # fmt: skip
        assert part in printed, part
    assert set(tmp_path.rglob("*")) == before
    own.write("masks/pet_0.png", encoded(mask("binary_1"), "PNG"))
    own.write("images/[red]pet_1.png", encoded(picture(40), "PNG"))
    assert not show(look_at_data(None, None, None), False)
    printed = capsys.readouterr().out
    assert "did you mean binary_1?" in " ".join(printed.split())
    assert "[red]pet_1" in printed
    assert "preprocess would refuse 2 of 9 photos, more than data.max_rejected (0.01) allows" in printed


def test_the_command_draws_a_sheet_and_prints_json(
    own: OwnFolder, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write("images/猫.jpg", encoded(picture(50), "JPEG"))
    own.write("masks/猫.png", encoded(Image.new("L", (60, 40), 255), "PNG"))
    sheet = project / "plots/data_sheet.png"
    assert not show(look_at_data("../own", None, sheet), True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["sheet"] == str(sheet)
    assert facts["pairs"] == 9
    assert facts["suspicious"] == [
        {"name": "猫", "reason": "its mask is full: every pixel is pet", "verdict": "look"}
    ]
    assert np.asarray(Image.open(sheet)).std() > 0


def test_sources_that_cannot_be_inspected_are_named(own: OwnFolder, project: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, type[Exception], str]] = [
        ("oxford", DownloadError, "oxford is not on this machine; run dvc repro download"),
        ("https://user:geheim@host/pets", DownloadError, r"https://\*\*\*@host/pets is not on this mach"),
        (str(tmp_path / "nowhere"), DownloadError, "nowhere: no such folder"),
        (str(project), DownloadError, "has neither images.tar.gz, nor images/ and masks/"),
    ]
    for source, kind, message in cases:
        with pytest.raises(kind, match=message):
            look_at_data(source, None, None)
    with pytest.raises(UsageError, match=r"--sheet x\.txt: must end in"):
        look_at_data(None, None, Path("x.txt"))
    params = project / "params.yaml"
    text = params.read_text()
    cases = [
        (f"{ROOT}/data/sample", ParamsError, r"data\.masks: binary_255 is for a folder"),
        ("~nobody-of-this-name", DownloadError, r"data\.source: ~nobody-of-this-name: no such folder"),
    ]
    for source, kind, message in cases:
        params.write_text(text.replace("source: ../own", f"source: {source}"))
        with pytest.raises(kind, match=message):
            look_at_data(None, None, None)
