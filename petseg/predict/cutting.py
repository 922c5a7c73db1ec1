"""One photo cut out: it goes through the network, and its mask, overlay and cut-out are written.

A photo goes through alone, in one thread, so that the bits of its mask depend on nothing else: not on other
photos, the number of cores, or how many photos are worked on at once.
"""

import errno
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petseg.core.files import written_atomically
from petseg.data.images import decode_photo
from petseg.errors import BadImage
from petseg.models.masking import Thresholds
from petseg.models.predictor import enlarged
from petseg.params import OUTPUTS, Edge
from petseg.predict.load import Model
from petseg.predict.pictures import (
    JPEG,
    alpha_of,
    colour_profile,
    cutout_picture,
    mask_picture,
    overlay_picture,
    thumbnail,
)
from petseg.predict.png import write_png

MASKS, OVERLAYS, CUTOUTS = "masks", "overlays", "cutouts"
WRITTEN_AS = {MASKS: ".png", OVERLAYS: ".jpg", CUTOUTS: ".png"}

_LARGE_PX = 10_000_000  # photos of more take turns: the largest that are decoded hold about 2 GB
_large = Lock()


@dataclass(frozen=True)
class CutOut:
    """What became of a photo.

    Attributes:
        width: of the photo, upright, in pixels.
        height: likewise.
        coverage: share of its pixels that are pet.
        confidence: mean probability, over its pixels, of what each was called.
        why_empty: why its mask may be empty; None where it is not.
        thumbnail: the overlay, small, where one was asked for.
    """

    width: int
    height: int
    coverage: float
    confidence: float
    why_empty: str | None
    thumbnail: Image.Image | None


@dataclass(frozen=True)
class Found:
    """What the network found in a photo, at the photo's own size.

    Attributes:
        probability: (2, H, W), of OUTPUTS.
        masks: (2, H, W), likewise.
        pet: (H, W), the mask that is wanted of the two.
    """

    probability: NDArray[np.float32]
    masks: NDArray[np.bool_]
    pet: NDArray[np.bool_]


def found_in(photo: Image.Image, model: Model, *, clean: bool) -> Found:
    """Send a photo through the network.

    Args:
        photo: RGB.
        model: the network, and which mask is wanted of it.
        clean: whether small islands and holes are taken out of the masks.
    """
    small, shape = model.predictor.probability_of(photo), (photo.height, photo.width)
    probability, masks = enlarged(small, shape, model.thresholds, clean=clean)
    return Found(probability, masks, masks[OUTPUTS.index(model.edge)])


def cut_out(
    path: Path, outputs: Mapping[str, Path], model: Model, *, replaces: bool, shown: bool, clean: bool
) -> CutOut:
    """Cut a photo out, and write its pictures.

    Args:
        path: of the photo.
        outputs: where its pictures go, by kind.
        model: by which, and which mask of the two.
        replaces: whether a picture that is there is replaced, or left as it is.
        shown: whether a thumbnail is asked for.
        clean: whether small islands and holes are taken out of the masks.

    Raises:
        BadImage: the photo can't be used, or its pictures can't have its name.
    """
    image = decode_photo(_bytes_of(path))
    small = None
    with _large if image.width * image.height > _LARGE_PX else nullcontext():
        found = found_in(image, model, clean=clean)
        for kind, picture in _drawn(image, found, model):
            if replaces or not outputs[kind].exists():
                _save(picture, outputs[kind], image)
            if kind == OVERLAYS and shown:
                small = thumbnail(picture)
            del picture  # before the next one is drawn
        why = why_empty(found.probability, found.masks, model.thresholds, model.edge)
        return CutOut(
            width=image.width,
            height=image.height,
            coverage=float(found.pet.mean()),
            confidence=_confidence(found.probability[OUTPUTS.index(model.edge)], found.pet),
            why_empty=None if found.pet.any() else why,
            thumbnail=small,
        )


def _confidence(probability: NDArray[np.float32], pet: NDArray[np.bool_]) -> float:
    """Return the mean probability of what each pixel was called; what was cleaned counts as sure."""
    of_pet, of_rest = (float(probability.sum(where=where, dtype=np.float64)) for where in (pet, ~pet))
    return (of_pet + (pet.size - float(pet.sum())) - of_rest) / pet.size


def why_empty(
    probability: NDArray[np.float32], masks: NDArray[np.bool_], thresholds: Thresholds, edge: Edge
) -> str:
    """Say why a photo may have got an empty mask.

    Args:
        probability: (2, H, W), of OUTPUTS.
        masks: (2, H, W), of the same.
        thresholds: by which they were cut.
        edge: which mask is wanted, and is empty.
    """
    limit, highest = highest_of(probability, masks, edge)
    if highest >= thresholds[limit] / 2:
        remedy = "a threshold" if limit == edge else f"with the {limit} edge, a threshold"
        return (
            f"the model is in doubt: its highest probability is {highest:.3g}, and pet is what has "
            f"{thresholds[limit]:g} or more; {remedy} of {highest * 0.9:.2g} would show something"
        )
    return (
        f"the model sees no cat or dog: its highest probability is {highest:.3g}; it knows photos of one "
        "pet that fills a good part of them, so cut a small one out before"
    )


def highest_of(probability: NDArray[np.float32], masks: NDArray[np.bool_], edge: Edge) -> tuple[Edge, float]:
    """Return the highest probability that a threshold must be below, for a mask not to be empty.

    The tight mask lies within the whole one: where that is empty, the threshold is the whole one's.

    Args:
        probability: (2, H, W), of OUTPUTS.
        masks: (2, H, W), of the same.
        edge: which mask is wanted.

    Returns:
        Of which mask the threshold is, and the probability.
    """
    whole, tight = probability
    if edge == "whole" or np.array_equal(whole, tight):  # as of a network with one output
        return edge, float(whole.max())
    within = masks[OUTPUTS.index("whole")]
    return ("tight", float(tight[within].max())) if within.any() else ("whole", float(whole.max()))


def _bytes_of(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise BadImage("can't be read: is no regular file")  # a pipe or a device might never end
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"can't be read: {error.strerror}") from None


def _drawn(photo: Image.Image, found: Found, model: Model) -> Iterator[tuple[str, Image.Image]]:
    """Draw a photo's pictures one after the other, each with its kind."""
    yield MASKS, mask_picture(found.pet)
    yield OVERLAYS, overlay_picture(photo, found.pet)
    yield (
        CUTOUTS,
        cutout_picture(photo, alpha_of(found.probability, found.masks, model.thresholds, model.edge)),
    )


def _save(picture: Image.Image, path: Path, photo: Image.Image) -> None:
    """Write a picture with the photo's colour profile, and none of its other metadata."""
    profile = None if picture.mode == "L" else colour_profile(photo)
    try:
        with written_atomically(path, durable=False) as file:
            if path.suffix == ".png":
                write_png(file, picture, profile)
            else:
                picture.save(file, "JPEG", **JPEG, icc_profile=profile)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise BadImage("its name is too long for its pictures") from None
