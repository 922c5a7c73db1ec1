"""Cuts out one photo: predicts its mask, and writes its mask, overlay and cut-out.

The network gets each photo alone, in one thread. So the bits of a mask do not depend on other photos, on the
number of cores, or on how many photos are worked on at once.
"""

import ctypes
import errno
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petseg.core.files import open_file, written_atomically
from petseg.data.images import MAX_DECODING_BYTES, decode_photo
from petseg.errors import BadImage
from petseg.models.masking import cleaned
from petseg.models.predictor import OwnSize
from petseg.params import OUTPUTS, Edge
from petseg.predict.load import Model
from petseg.predict.pictures import (
    JPEG,
    Cutout,
    alpha_of,
    colour_profile,
    draw_overlay,
    thumbnail,
)
from petseg.predict.png import write_png

MASKS, OVERLAYS, CUTOUTS = "masks", "overlays", "cutouts"
WRITTEN_AS = {MASKS: ".png", OVERLAYS: ".jpg", CUTOUTS: ".png"}

MAX_FILE_BYTES = 200_000_000  # of a photo; 50 megapixels have 150 MB uncompressed


def picture_paths(out: Path, name: str) -> dict[str, Path]:
    """Return where the pictures of a photo go, by kind."""
    return {kind: out / kind / f"{name}{suffix}" for kind, suffix in WRITTEN_AS.items()}


class Memory:
    """A limit on the memory that photos take together; a photo waits until enough of it is free.

    Args:
        size: bytes for all photos together; a photo that needs all of it is worked on alone.
    """

    def __init__(self, size: int) -> None:
        self._left, self._changed = size, Condition()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Reserve so many bytes while the context lasts."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            _return_freed()
            with self._changed:
                self._left += size
                self._changed.notify_all()


def _return_freed() -> None:
    """Return freed memory to the system, which the C library would keep otherwise."""
    with suppress(AttributeError, OSError):  # another library than glibc
        ctypes.CDLL(None).malloc_trim(0)


_MEMORY = Memory(MAX_DECODING_BYTES)


@dataclass(frozen=True)
class CutOut:
    """The result for a photo that was cut out.

    Attributes:
        width: width of the upright photo, in pixels.
        height: its height, in pixels.
        coverage: share of the pixels that are pet.
        confidence: mean probability, over the pixels, of the class that each got.
        why_empty: why the mask may be empty; None if it is not empty.
        thumbnail: a small overlay, if one was asked for.
    """

    width: int
    height: int
    coverage: float
    confidence: float
    why_empty: str | None
    thumbnail: Image.Image | None


@dataclass(frozen=True)
class Found:
    """The network's prediction for a photo.

    Attributes:
        own: both outputs, at the photo's own size.
        coverage: share of the pixels that are pet.
        confidence: mean probability of the class that each pixel got; cleaned pixels count as certain.
    """

    own: OwnSize
    coverage: float
    confidence: float


def outputs_of(photo: Image.Image, model: Model, *, clean: bool) -> OwnSize:
    """Send a photo, RGB, through the network.

    Args:
        photo: the photo.
        model: the network.
        clean: whether small islands and holes are removed from the masks.
    """
    small = model.predictor.probability_of(photo)
    small = cleaned(small, model.thresholds) if clean else small
    return OwnSize(small, (photo.height, photo.width), model.thresholds)


def found_in(photo: Image.Image, model: Model, *, clean: bool) -> Found:
    """Predict a photo.

    Args:
        photo: the photo, RGB.
        model: the network, and which of its two masks is wanted.
        clean: whether small islands and holes are removed from the masks.
    """
    own, wanted = outputs_of(photo, model, clean=clean), OUTPUTS.index(model.edge)
    sure, area, pixels = 0.0, 0, photo.width * photo.height
    for _, probability, masks in own.strips():
        mask = masks[wanted]
        area += int(mask.sum())
        of_pet, of_rest = (
            float(probability[wanted].sum(where=where, dtype=np.float64)) for where in (mask, ~mask)
        )
        sure += of_pet + int((~mask).sum()) - of_rest
    return Found(own, area / pixels, sure / pixels)


def mask_of(own: OwnSize, edge: Edge) -> NDArray[np.uint8]:
    """Return a mask, (H, W); 255 is pet."""
    mask = np.empty(own.shape, np.uint8)
    for columns, _, masks in own.strips():
        mask[:, columns] = masks[OUTPUTS.index(edge)].view(np.uint8) * np.uint8(255)
    return mask


def cut_out(
    path: Path, outputs: Mapping[str, Path], model: Model, *, replaces: bool, shown: bool, clean: bool
) -> CutOut:
    """Cut a photo out, and write its pictures.

    Args:
        path: the path of the photo.
        outputs: the paths of its pictures, by kind.
        model: the network, and which of its two masks is wanted.
        replaces: whether existing pictures are replaced, or kept.
        shown: whether to return a thumbnail.
        clean: whether small islands and holes are removed from the masks.

    Raises:
        BadImage: the photo can't be used, or its pictures can't have its name.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_photo(path))
        return _cut_out(  # the photo has no name here, so it is freed before others get its memory
            decode_photo(file, lambda size: stack.enter_context(_MEMORY.of(size))),
            outputs,
            model,
            replaces=replaces,
            shown=shown,
            clean=clean,
        )


def _cut_out(
    image: Image.Image,
    outputs: Mapping[str, Path],
    model: Model,
    *,
    replaces: bool,
    shown: bool,
    clean: bool,
) -> CutOut:
    found = found_in(image, model, clean=clean)
    why = None if found.coverage else why_empty(found.own, model.edge)

    def wants(kind: str) -> bool:
        return replaces or not outputs[kind].exists()

    if wants(MASKS):
        save_picture(Image.fromarray(mask_of(found.own, model.edge)), outputs[MASKS], image)
    if wants(CUTOUTS):
        save_picture(Cutout(image, alpha_of(found.own, model.edge)), outputs[CUTOUTS], image)
    small = None
    if wants(OVERLAYS) or shown:
        draw_overlay(image, mask_of(found.own, model.edge))  # last, because it draws over the photo
        if wants(OVERLAYS):
            save_picture(image, outputs[OVERLAYS], image)
        small = thumbnail(image) if shown else None
    return CutOut(image.width, image.height, found.coverage, found.confidence, why, small)


def why_empty(own: OwnSize, edge: Edge) -> str:
    """Say why a photo's mask may be empty.

    Args:
        own: both outputs for the photo.
        edge: the wanted mask, which is empty.
    """
    limit, highest = highest_of(own, edge)
    if highest >= own.thresholds[limit] / 2:
        remedy = "a threshold" if limit == edge else f"with the {limit} edge, a threshold"
        return (
            f"the model is in doubt: its highest probability is {highest:.3g}, and pet begins at "
            f"{own.thresholds[limit]:g}; {remedy} of {highest * 0.9:.2g} would show something"
        )
    return (
        f"the model sees no cat or dog: its highest probability is {highest:.3g}; it was trained on photos "
        "of which one pet fills a large part, so crop the photo if its pet is small"
    )


def highest_of(own: OwnSize, edge: Edge) -> tuple[Edge, float]:
    """Return the probability that a threshold must not exceed, so that a mask is not empty.

    The tight mask lies within the whole one. So if the whole mask is empty, its threshold is the one that
    must be lower.

    Args:
        own: both outputs for the photo.
        edge: the wanted mask.

    Returns:
        The mask that has the threshold, and the probability.
    """
    alike, highest, within = True, 0.0, []
    for _, (whole, tight), masks in own.strips():
        alike = alike and np.array_equal(whole, tight)  # as for a network with one output
        highest = max(highest, float(whole.max()))
        within += [float(tight[masks[0]].max())] if masks[0].any() else []
    if edge == "whole" or alike:
        return edge, highest
    return ("tight", max(within)) if within else ("whole", highest)


def open_photo(path: Path) -> IO[bytes]:
    """Open a photo's file.

    Raises:
        BadImage: it is no regular file, is too large, or can't be read.
    """
    if path.is_dir():
        raise BadImage("can't be read: is a folder, whose files can't be listed")
    try:
        return open_file(path, MAX_FILE_BYTES)
    except OSError as error:
        raise BadImage(f"can't be read: {error.strerror}") from None


def save_picture(picture: "Image.Image | Cutout", path: Path, photo: Image.Image) -> None:
    """Write a picture with the photo's colour profile, and without its other metadata."""
    profile = None if picture.mode == "L" else colour_profile(photo)
    try:
        with written_atomically(path, durable=False) as file:
            if isinstance(picture, Cutout) or path.suffix == ".png":
                write_png(file, picture, profile)
            else:
                picture.save(file, "JPEG", **JPEG, icc_profile=profile)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise BadImage("its name is too long for its pictures") from None
