"""Photos and masks of pets, drawn or from the sample, in archives or in a folder like a user's."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from petseg.data.archives import PHOTOS
from petseg.data.arrays import PetArrays
from petseg.data.own_folder import OwnData, archive, find_own, read_own
from petseg.data.preprocess import Report, pack
from petseg.params import Masks, SplitParams
from tests.support import ROOT

SAMPLE = ROOT / "data/sample"
HEIC = ROOT / "tests/support/turned.heic"  # 64x48, with a red bar at the left; its metadata turns it right
SPLIT = SplitParams(seed=0, test_fraction=0.25, val_fraction=0.25, folds=None, fold=None)
VALUES = {"trimap": (1, 2, 3), "binary_255": (255, 0, 255), "binary_1": (1, 0, 1)}  # pet, background, border


def picture(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Draw a photo of smooth noise, another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def trimap(size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Draw a trimap with a pet in the middle and a border around it."""
    labels = np.full((size[1], size[0]), 2, np.uint8)
    labels[8:-8, 10:-10] = 3
    labels[12:-12, 14:-14] = 1
    return Image.fromarray(labels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a valid .tar.gz whose bytes depend only on its members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


class PetFolder:
    """Two archives in the layout of the official ones. Tests can damage their content before ``write``."""

    def __init__(self, folder: Path, trainval: int = 12, test: int = 4) -> None:
        self.folder = folder
        names = [f"{breed}_{n}" for n in range((trainval + test) // 2) for breed in ("Bengal", "pug")]
        self.lists = {"trainval": names[:trainval], "test": names[trainval:]}
        self.photos = {f"images/{n}.jpg": encoded(picture(i), "JPEG") for i, n in enumerate(names)}
        self.trimaps = {f"annotations/trimaps/{n}.png": encoded(trimap(), "PNG") for n in names}
        self.extra: dict[str, bytes] = {}

    def write(self) -> Path:
        lists = {
            f"annotations/{part}.txt": "".join(
                f"{name} 1 {1 if name[0].isupper() else 2} 1\n" for name in names
            ).encode()
            for part, names in self.lists.items()
        }
        write_tar(self.folder / "images.tar.gz", self.photos | self.extra)
        write_tar(self.folder / "annotations.tar.gz", lists | self.trimaps)
        return self.folder


def mask(masks: Masks = "binary_255", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Draw the mask of the pet in an encoding."""
    codes = np.array((0, *VALUES[masks]), np.uint8)
    return Image.fromarray(codes[np.asarray(trimap(size))])


class OwnFolder:
    """A folder of drawn photos and masks. Tests can damage it before ``read``."""

    def __init__(self, folder: Path, names: tuple[str, ...], masks: Masks = "binary_255") -> None:
        self.folder = folder
        for seed, name in enumerate(names):
            self.write(f"images/{name}.jpg", encoded(picture(seed), "JPEG"))
            self.write(f"masks/{name}.png", encoded(mask(masks), "PNG"))

    def write(self, name: str, content: bytes | str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def read(self) -> OwnData:
        found = find_own(str(self.folder), Path("/nowhere"))
        assert found is not None
        return read_own(found)

    def parts(self) -> dict[str, str]:
        return {pair.listed.name: pair.listed.part for pair in self.read().pairs}


def packed(own: OwnFolder, to: Path, masks: Masks = "binary_255") -> tuple[PetArrays, Report]:
    archive(own.read(), masks, to / "archives")
    report = pack(to / "archives", to / "pets", to / "rejected.csv", 32, 1.0, SPLIT)
    return PetArrays.open(to / "pets"), report


def sample_photos(count: int) -> list[bytes]:
    """Return the files of some embedded photos."""
    with tarfile.open(SAMPLE / PHOTOS) as archive:
        files = (archive.extractfile(member) for member in archive if member.isfile())
        return [file.read() for file, _ in zip(filter(None, files), range(count), strict=False)]


def few_photos(folder: Path, trainval: int = 16, test: int = 8) -> None:
    """Write archives of some of the sample's photos, half of cats and half of dogs."""
    files: dict[str, bytes] = {}
    for name in ("annotations.tar.gz", "images.tar.gz"):
        with tarfile.open(SAMPLE / name) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    files[member.name] = file.read()
    kept: dict[str, bytes] = {}
    for part, count in (("trainval", trainval), ("test", test)):
        lines = files[f"annotations/{part}.txt"].decode().splitlines()
        lines = [line for line in lines if line.startswith(("Abyssinian", "american_bulldog"))]
        lines = lines[: count // 2] + lines[-count // 2 :]
        kept[f"annotations/{part}.txt"] = "\n".join(lines).encode()
        for name in (line.split()[0] for line in lines):
            for path in (f"annotations/trimaps/{name}.png", f"images/{name}.jpg"):
                kept[path] = files[path]
    for name in ("annotations", "images"):
        members = {path: content for path, content in kept.items() if path.startswith(name)}
        write_tar(folder / f"{name}.tar.gz", members)
