"""The user's own photos and masks: how they are paired, why some are refused, and how they are packed."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petseg.core.files import sha256_file
from petseg.data.encodings import ENCODINGS, mask_values, to_trimap
from petseg.data.listing import LeftOut, index_csv, read_listing, why_no_name
from petseg.data.own_folder import archive, find_own, put_in_place, read_own
from petseg.data.preprocess import first_originals, original_trimaps, pack, read_lists
from petseg.errors import BadImage, DataError, DownloadError, ParamsError
from petseg.params import Masks
from tests.support import ROOT
from tests.support.pets import SPLIT, OwnFolder, encoded, mask, packed, picture, trimap


@pytest.fixture
def own(tmp_path: Path) -> OwnFolder:
    return OwnFolder(tmp_path / "own", ("a", "b", "c", "d"))


def with_palette(image: Image.Image) -> Image.Image:
    """The same values as indices of a palette with other colours."""
    indexed = Image.new("P", image.size)
    indexed.putdata(np.asarray(image).ravel().tolist())
    indexed.putpalette([7, 7, 7] * 256)
    return indexed


@pytest.mark.parametrize("masks", ENCODINGS)
def test_an_encoding_becomes_a_trimap(masks: Masks) -> None:
    found = to_trimap(mask_values(encoded(mask(masks), "PNG"), masks), masks)
    true = np.asarray(trimap())
    assert (found == (true if masks == "trimap" else np.where(true == 2, 2, 1))).all()


@pytest.mark.parametrize("masks", ["binary_255", "binary_1"])
@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.convert("RGB"),
        lambda image: image.convert("LA"),
        lambda image: image.convert("RGBA"),
        lambda image: Image.fromarray(np.asarray(image) > 0),  # 1 bit per pixel
        lambda image: Image.fromarray(np.asarray(image).astype(np.uint16)),
        lambda image: with_palette(image),
    ],
    ids=["rgb", "grey-alpha", "rgba", "1-bit", "16-bit", "palette"],
)
def test_a_mask_may_be_stored_in_any_mode(masks: Masks, change: Callable[[Image.Image], Image.Image]) -> None:
    found = to_trimap(mask_values(encoded(change(mask(masks)), "PNG"), masks), masks)
    assert (found == np.where(np.asarray(trimap()) == 2, 2, 1)).all()


SMOOTH = mask().resize((90, 60), Image.Resampling.BILINEAR)
GLASS = mask().convert("RGBA")
GLASS.putalpha(mask())
TWO_COLOURS = Image.merge("RGB", [mask(), mask(), Image.new("L", (60, 40))])


@pytest.mark.parametrize(
    ("image", "masks", "message"),
    [
        (mask("binary_255"), "binary_1", r"holds 255.* data\.masks: binary_1 .*did you mean binary_255\?"),
        (mask("binary_1"), "binary_255", r"holds 1, .*did you mean binary_1\?"),
        (mask("binary_255"), "trimap", r"holds 0, .*did you mean binary_255\?"),
        (mask("trimap"), "binary_1", r"holds 2, .*did you mean trimap\?"),
        (Image.new("L", (9, 9), 1), "binary_255", r"holds 1, .*did you mean trimap or binary_1\?"),
        (Image.fromarray(np.array([[0, 1, 255]], np.uint8)), "binary_1", r"; it holds 0, 1, 255"),
        (Image.fromarray(np.array([[0, 65535]], np.uint16)), "binary_1", r"holds 65535"),
        (SMOOTH, "binary_255", r"values, such as \d+: its edges are smoothed"),
        (GLASS, "binary_255", "is partly transparent"),
        (TWO_COLOURS, "binary_255", "is coloured"),
        (mask().convert("CMYK"), "binary_255", "has mode CMYK"),
        (mask().convert("F"), "binary_255", "has mode F"),
    ],
)  # fmt: skip
def test_a_picture_that_is_no_mask_is_refused(image: Image.Image, masks: Masks, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        to_trimap(mask_values(encoded(image, "TIFF"), masks), masks)


def test_a_mask_that_was_saved_as_jpeg_is_refused_by_name(tmp_path: Path) -> None:
    own = OwnFolder(tmp_path / "own", tuple("abcdefg"))
    own.write("masks/b.png", encoded(mask(), "JPEG"))
    own.write("masks/c.png", encoded(mask("binary_1"), "PNG"))
    own.write("masks/d.png", "no picture")
    _, report = packed(own, tmp_path)
    reasons = dict(report.rejected)
    assert reasons.keys() == {"b", "c", "d"}
    assert "masks/b.png holds" in reasons["b"]
    assert "its edges are smoothed" in reasons["b"]
    assert (
        "masks/c.png holds 1, which data.masks: binary_255 does not allow; did you mean binary_1?"
        in reasons["c"]
    )
    assert reasons["d"] == "masks/d.png not a picture of a known format"
    assert report.summary()["listed"] == 7


def test_masks_of_another_encoding_fail_before_photos_are_decoded(own: OwnFolder, tmp_path: Path) -> None:
    archive(own.read(), "binary_1", tmp_path / "archives")
    with pytest.raises(DataError, match=r"4 of 4 listed photos were rejected.* did you mean binary_255\?"):
        pack(tmp_path / "archives", tmp_path / "pets", tmp_path / "rejected.csv", 32, 0.01, SPLIT)
    assert (tmp_path / "rejected.csv").read_text().count(",rejected,") == 4
    assert not (tmp_path / "pets").exists()


def test_pictures_are_paired_by_name_in_any_format_and_folder(own: OwnFolder, tmp_path: Path) -> None:
    own.write("images/dogs/Rex am See.PNG", encoded(picture(20), "PNG"))
    own.write("masks/dogs/Rex am See.bmp", encoded(mask(), "BMP"))
    own.write("images/e\u0301te\u0301 1.webp", encoded(picture(21), "WEBP"))  # decomposed, as on a Mac
    own.write("masks/été 1.png", encoded(mask(), "PNG"))
    arrays, report = packed(own, tmp_path)
    assert list(arrays.index["name"]) == ["a", "b", "c", "d", "dogs_Rex am See", "été 1"]
    assert set(arrays.index["breed"]) == set(arrays.index["species"]) == {"unknown"}
    assert report.summary()["ignored_files"] == report.summary()["rejected"] == 0
    names = ["dogs_Rex am See", "été 1"]
    assert [name for name, _ in first_originals(tmp_path / "archives", names, 5)] == names
    trimaps = dict(original_trimaps(tmp_path / "archives", names))
    assert all((np.unique(labels) == [1, 2]).all() for labels in trimaps.values())
    row = list(arrays.index["name"]).index("été 1")
    assert np.abs(arrays.images[row].astype(int) - np.asarray(picture(21).resize((32, 32)))).mean() < 20


def test_files_that_cannot_be_paired_are_named(own: OwnFolder, tmp_path: Path) -> None:
    photo = encoded(picture(9), "JPEG")
    (tmp_path / "secret.jpg").write_bytes(photo)
    for name in ("alone", "outside", "dangling", "pi$t$a", "line\nbreak", "=sum", "twice", "big", "fifo"):
        own.write(f"images/{name}.jpg", photo)
        if name != "alone":
            own.write(f"masks/{name}.png", encoded(mask(), "PNG"))
    own.write("images/twice.png", photo)
    own.write("masks/nobody.png", encoded(mask(), "PNG"))
    own.write("images/._a.jpg", b"\0")
    own.write("images/notes.txt", "hello")
    for name, target in (("outside", tmp_path / "secret.jpg"), ("dangling", tmp_path / "nothing")):
        (own.folder / f"images/{name}.jpg").unlink()
        (own.folder / f"images/{name}.jpg").symlink_to(target)
    (own.folder / "images/fifo.jpg").unlink()
    os.mkfifo(own.folder / "images/fifo.jpg")
    with (own.folder / "images/big.jpg").open("r+b") as file:
        file.truncate((64 << 20) + 1)
    (own.folder / "images/far").symlink_to(tmp_path)
    _, report = packed(own, tmp_path)
    assert dict(report.rejected) == {
        "alone": "no picture of this name in masks/",
        "outside": "images/outside.jpg lies outside of the folder, or is a link that leads there",
        "dangling": "images/dangling.jpg: no such file",
        "images/pi$t$a.jpg": "its name holds $; rename it",
        "images/line\\nbreak.jpg": "its name holds a character that can't be shown; rename it",
        "images/=sum.jpg": "its name begins with '='; rename it",
        "twice": "is there twice: images/twice.jpg and images/twice.png",
        "big": "images/big.jpg has 67,108,865 bytes, more than 67,108,864",
        "fifo": "images/fifo.jpg is no regular file",
    }
    assert dict(report.ignored) == {
        "images/._a.jpg": "AppleDouble file of a Mac",
        "images/notes.txt": "not used: .txt",
        "images/far": "a hidden folder or a link to one",
        "masks/nobody.png": "mask of no photo",
    }
    with (tmp_path / "rejected.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + 9 + 4


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("rex", None), ("_MG_1234", None), ("Rex & Ida, 2 (3)", None), ("猫", None),
        ("", "is empty"), ("a/b", "holds /"), ("a|b", "holds |"), ("-x", "begins"), (".x", "begins"),
        ("x ", "ends"), ("\udc80", "can't be shown"), ("a\u202eb", "can't be shown"),
    ],
)  # fmt: skip
def test_names_of_photos_are_checked(name: str, why: str | None) -> None:
    found = why_no_name(name)
    assert found is None if why is None else found is not None and why in found


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({}, {"a": "", "b": "", "c": "", "d": ""}),
        ({"test": "# ours\na\n\n"}, {"a": "test", "b": "trainval", "c": "trainval", "d": "trainval"}),
        ({"test": "a.jpg", "val": "b.png"}, {"a": "test", "b": "val", "c": "train", "d": "train"}),
        ({"test": "a", "train": "b\r\nc\n"}, {"a": "test", "b": "trainval", "c": "trainval"}),
        ({"test": "\ufeffa", "train": "b", "val": "c"}, {"a": "test", "b": "train", "c": "val"}),
    ],
)
def test_lists_determine_the_part_of_a_photo(
    own: OwnFolder, lists: dict[str, str], parts: dict[str, str]
) -> None:
    for part, text in lists.items():
        own.write(f"{part}.txt", text)
    assert own.parts() == parts
    left = {LeftOut(f"images/{name}.jpg", "ignored", "in no list") for name in {*"abcd"} - parts.keys()}
    assert left == set(own.read().left_out)


def test_a_csv_lists_pairs(own: OwnFolder) -> None:
    lines = (
        "image,mask,label,species,group,split",
        "images/a.jpg,masks/a.png,tabby,cat,home,train",
        r"images\b.jpg, masks/d.png ,,,,test",
        "",
        "masks/c.png,masks/c.png,pug,dog,,val",
    )
    own.write("pairs.csv", "\ufeff" + "\r\n".join(lines))
    found = [(p.listed, p.photo.name, p.mask.name) for p in own.read().pairs]
    assert [(photo, mask) for _, photo, mask in found] == [
        ("a.jpg", "a.png"), ("b.jpg", "d.png"), ("c.png", "c.png")
    ]  # fmt: skip
    rows = [tuple(vars(listed).values()) for listed, *_ in found]
    assert rows == [
        ("a", "tabby", "cat", "home", "train"),
        ("b", "unknown", "unknown", "", "test"),
        ("masks_c", "pug", "dog", "", "val"),
    ]
    shutil.move(own.folder / "pairs.csv", own.folder / "mine.csv")
    direct = find_own("own/mine.csv", own.folder.parent)
    assert direct is not None
    assert [pair.listed for pair in read_own(direct).pairs] == [listed for listed, *_ in found]


def test_wrong_paths_in_a_csv_are_refused_one_by_one(own: OwnFolder, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded(picture(1), "JPEG"))
    own.write(
        "pairs.csv",
        "image,mask\nimages/a.jpg,masks/a.png\nimages/b.jpg,masks/none.png\n"
        f"../x.jpg,masks/c.png\n{tmp_path}/x.jpg,masks/c.png\n",
    )
    found = own.read()
    assert [pair.listed.name for pair in found.pairs] == ["a"]
    outside = "lies outside of the folder, or is a link that leads there"
    assert {row.reason for row in found.left_out} == {
        f"../x.jpg {outside}", f"{tmp_path}/x.jpg {outside}", "masks/none.png: no such file"
    }  # fmt: skip


LEFT = "name,verdict,reason\n"
CSV = "image,mask,label,species,group,split\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("test.txt", "a\nnobody", r"test\.txt, line 2: 'nobody' is not in images/"),
        ("train.txt", "a", r"train\.txt: no photo is named for test"),
        ("val.txt", "a", r"val\.txt: no photo is named for test"),
        ("test.txt", "a\nb\xff", r"test\.txt: is not UTF-8"),
        ("groups.csv", "name,group\nx,1", r"groups\.csv, line 2: 'x' is not in images/"),
        ("groups.csv", "name,group\na,1\na,2", r"groups\.csv, line 3: 'a' is in two groups"),
        ("groups.csv", "name,group\na,", r"groups\.csv, line 2: group '' is empty"),
        ("groups.csv", "name,groups\na,1", r"groups\.csv: no column group; "),
        ("pairs.csv", "", r"pairs\.csv: no column image"),
        ("pairs.csv", "image;mask\na;b", r"no column image; .*image, mask, and if you like label"),
        ("pairs.csv", "image,mask,breed\n", r"pairs\.csv: unknown column 'breed'"),
        ("pairs.csv", "image,mask,mask\n", r"pairs\.csv: a column is there twice"),
        ("pairs.csv", "image,mask\nimages/a.jpg", r"pairs\.csv, line 2: 1 columns, not 2"),
        ("pairs.csv", "image,mask\n,m", r"pairs\.csv, line 2: image is empty"),
        ("pairs.csv", "image,mask\n", r"no pair of a photo and a mask"),
        ("pairs.csv", CSV + "images/a.jpg,masks/a.png,,,,valid", r"line 2: split 'valid' is not train, val"),
        ("pairs.csv", CSV + "images/a.jpg,masks/a.png,$x$,,,", r"line 2: label '\$x\$' holds \$"),
        ("pairs.csv", CSV + "images/a.jpg,m,,,,\na.jpg,m,,,,", r"line 3: a\.jpg is there already, in line 2"),
        (
            "pairs.csv", CSV + "images/a.jpg,masks/a.png,,,,test\nimages/b.jpg,masks/b.png,,,,",
            r"pairs\.csv, line 3: split is empty, but given in other lines",
        ),
    ],
)  # fmt: skip
def test_an_error_in_a_list_names_the_line(own: OwnFolder, file: str, text: str, message: str) -> None:
    own.write(file, text.encode("latin-1") if "\xff" in text else text)
    with pytest.raises(DataError, match=message):
        own.read()


def test_contradicting_lists_are_refused(own: OwnFolder) -> None:
    own.write("test.txt", "a\nb")
    own.write("val.txt", "b.jpg\nno\nnot")
    with pytest.raises(DataError) as error:
        own.read()
    assert str(error.value).splitlines() == [
        "val.txt, line 2: 'no' is not in images/",
        "val.txt, line 3: 'not' is not in images/",
        "test.txt, line 2: 'b' is in val.txt too",
    ]


def test_a_group_that_is_divided_by_lists_is_refused(own: OwnFolder, tmp_path: Path) -> None:
    own.write("groups.csv", "name,group\na,home\nb.jpg,home\n")
    own.write("test.txt", "a")
    with pytest.raises(DataError, match=r"group home: by the lists a is in test, b in trainval;"):
        archive(own.read(), "binary_255", tmp_path / "archives")
    own.write("test.txt", "a\nb")
    assert [pair.listed.group for pair in own.read().pairs] == ["home", "home", "", ""]


def test_masks_with_other_names_are_refused(own: OwnFolder) -> None:
    for path in (own.folder / "masks").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    with pytest.raises(
        DataError, match=r"no photo has a mask of its own name: images/a.jpg, but masks/a_mask.png"
    ):
        own.read()
    shutil.rmtree(own.folder / "masks")
    with pytest.raises(DataError, match="has images/ but no masks/"):
        own.read()


def test_the_same_files_give_the_same_bytes(own: OwnFolder, tmp_path: Path) -> None:
    first = archive(own.read(), "binary_255", tmp_path / "one")
    copy = tmp_path / "another name"
    shutil.copytree(own.folder, copy, copy_function=shutil.copyfile)
    second = archive(read_own(copy), "binary_255", tmp_path / "two")
    assert [file.sha256 for file in first] == [file.sha256 for file in second]
    assert [file.sha256 for file in first] == [sha256_file(tmp_path / "one" / f.name) for f in first]


def test_a_photo_in_training_and_test_stays_in_test(own: OwnFolder, tmp_path: Path) -> None:
    own.write("images/e.png", encoded(picture(30), "PNG"))
    own.write("images/f.png", encoded(picture(30), "PNG", compress_level=1))
    own.write("masks/e.png", encoded(mask(), "PNG"))
    own.write("masks/f.png", encoded(mask(), "PNG"))
    own.write("test.txt", "f")
    arrays, report = packed(own, tmp_path)
    assert dict(report.rejected) == {"e": "the same photo as f"}
    assert list(arrays.index["name"][arrays.rows("test")]) == ["f"]


@pytest.mark.parametrize(
    ("source", "masks", "message", "kind"),
    [
        ("sample", "binary_1", r"data\.masks: binary_1 is for a folder", ParamsError),
        (str(ROOT / "data/sample"), "binary_255", "hold trimaps", ParamsError),
        ("nowhere", "trimap", "no such folder", DownloadError),
        ("~nobody-of-this-name", "trimap", "data.source: ~nobody", DownloadError),
        (
            ".",
            "trimap",
            "images.tar.gz: no such file; a source holds .*, or images/ and masks/",
            DownloadError,
        ),
    ],
)
def test_a_source_that_does_not_fit_the_masks_is_refused(
    tmp_path: Path, source: str, masks: Masks, message: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=message):
        put_in_place(source, masks, ROOT / "data/sample", tmp_path / "into", tmp_path)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"annotations/index.csv": "name\n"}, "its columns are not name, breed"),
        ({"annotations/index.csv": "{}../x,b,s,,\n"}, r"line 2: '\.\./x' holds /"),
        ({"annotations/index.csv": "{}x,b,s,,nowhere\n"}, "'nowhere' is no split"),
        ({"annotations/index.csv": "{}x,b,s,,\nx,b,s,,\n"}, "line 3: 'x' is there twice"),
        ({"annotations/index.csv": "{}x,b\n"}, "line 2: not 5 columns"),
        ({"annotations/index.csv": "{}"}, "the lists name no photo"),
        (
            {"annotations/index.csv": "{}x,b,s,,\n", "annotations/left_out.csv": LEFT + "a,b,c\n"},
            "'b' is no verdict",
        ),
    ],
)  # fmt: skip
def test_an_invalid_index_is_refused(texts: dict[str, str], message: str) -> None:
    texts = {name: text.replace("{}", index_csv([]).decode()) for name, text in texts.items()}
    with pytest.raises(DataError, match=message):
        read_listing("annotations.tar.gz", texts)


@pytest.mark.parametrize("form", ["~/own/{}", "{home}/own/{}", "./{}", "{}"])
def test_a_path_in_a_csv_may_begin_with_the_home_folder(
    tmp_path: Path, own: OwnFolder, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = [
        ",".join(form.format(path, home=tmp_path) for path in (f"images/{name}.jpg", f"masks/{name}.png"))
        for name in "ab"
    ]
    own.write("pairs.csv", "\n".join(["image,mask", *rows]))
    assert [pair.listed.name for pair in own.read().pairs] == ["a", "b"]
    found = find_own("~/own", Path("/nowhere"))
    assert found == tmp_path / "own/pairs.csv"


def test_a_path_in_a_list_may_begin_with_the_home_folder(
    tmp_path: Path, own: OwnFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own.write("train.txt", "~/own/images/a.jpg\nb\n")
    own.write("test.txt", f"{tmp_path}/own/images/c.jpg\nd.jpg\n")
    own.write("groups.csv", "name,group\n~/own/images/a.jpg,one\n")
    assert own.parts() == {"a": "trainval", "b": "trainval", "c": "test", "d": "test"}
    assert [pair.listed.group for pair in own.read().pairs] == ["one", "", "", ""]


def test_a_file_that_becomes_a_pipe_or_huge_is_left_out(tmp_path: Path, own: OwnFolder) -> None:
    """Files may change after the folder was read, so each is checked again when it is opened."""
    found = own.read()
    (own.folder / "masks/a.png").unlink()
    os.mkfifo(own.folder / "masks/a.png")
    with (own.folder / "masks/b.png").open("wb") as sparse:
        sparse.truncate(40_000_000_000)
    archive(found, "binary_255", tmp_path / "archives")
    _, left_out = read_lists(tmp_path / "archives")
    assert {row.name: row.reason for row in left_out} == {
        "a": "masks/a.png can't be read: is no regular file",
        "b": "masks/b.png can't be read: has 40,000,000,000 bytes, more than 67,108,864",
    }
