"""Which islands and holes should be removed from masks: ``python -m benchmarks.cleaning`` prints a table.

Each pair of fractions (petseg.models.masking) is tried on the validation photos, at their own size, with the
model that ``make repro`` trained. A pet is lost if cleaning removes most of its part of the mask. Lost pets
are counted on composed photos, which have a second pet beside the first, with a quarter, a tenth or a
twentieth of its area.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.__main__ import ROOT
from petseg.data.arrays import PetArrays
from petseg.data.images import BACKGROUND, decode_photo
from petseg.data.preprocess import original_trimaps, photo_files
from petseg.evaluation.scores import Answers, tally
from petseg.models.masking import Thresholds, cleaned, cut
from petseg.models.predictor import at_own_size
from petseg.params import OUTPUTS
from petseg.predict.load import Model

TRIED = (  # islands below this share of the largest component, holes below this share of the mask
    *((0.0, hole) for hole in (0.0, 0.01, 0.02, 0.05, 1.0)),
    *((island, 0.05) for island in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 1.0)),
)
PLACES = 12  # possible places of the second pet, in each row and in each column
SHARES = (0.25, 0.1, 0.05)  # the area of the second pet, as a share of the first one's
ANSWERS: Answers = {"foreground": "whole", "background": "tight", "ignore": "tight"}
Photo = NDArray[np.uint8]


def main() -> None:
    """Print the table."""
    archives = ROOT / "data/archives"
    arrays = PetArrays.open(ROOT / "data/pets")
    model = Model.of_file(ROOT / "models/model.safetensors", ROOT / "runs", torch.device("cpu"))
    names = arrays.index["name"][arrays.rows("val")].to_list()
    photos = {name: np.asarray(decode_photo(content)) for name, content in photo_files(archives, names)}
    trimaps = dict(original_trimaps(archives, names))
    found = {name: model.predictor.probability_of(Image.fromarray(photo)) for name, photo in photos.items()}
    composed = [*pairs(photos, trimaps)]
    probabilities = [model.predictor.probability_of(Image.fromarray(photo)) for photo, _ in composed]
    print(f"{len(names)} validation photos and {len(composed)} composed ones, by {model.name}")
    print(
        "| islands under | holes under | Dice, whole | tight | boundary F, whole | tight | second pets lost |"
    )
    print("|---|---|---|---|---|---|---|")
    for island, hole in TRIED:
        clean = partial(cleaned, thresholds=model.thresholds, island=island, hole=hole)
        masks = (
            (name, cut(at_own_size(clean(found[name]), trimap.shape), model.thresholds), trimap)
            for name, trimap in trimaps.items()
        )
        scores = [tallies.scores() for rule, tallies in tally(masks, ANSWERS).items() if rule != "ignore"]
        lost = count_lost(composed, probabilities, model.thresholds, clean)
        numbers = [
            f"{score[key]:.4f}" for key in ("dice_per_image", "boundary_f_per_image") for score in scores
        ]
        print(f"| {island:g} | {hole:g} | {' | '.join(numbers)} | {lost[0]} of {lost[1]} |", flush=True)


def pairs(photos: dict[str, Photo], trimaps: dict[str, Photo]) -> Iterator[tuple[Photo, NDArray[np.bool_]]]:
    """Yield composed photos, and the mask of their second pet, which does not cover the first one."""
    names = list(photos)
    for (name, other), share in product(zip(names, names[1:] + names[:1], strict=True), SHARES):
        pet = trimaps[name] != BACKGROUND
        second = trimaps[other] != BACKGROUND
        scale = (share * pet.sum() / max(1, second.sum())) ** 0.5
        size = [max(1, round(side * scale)) for side in second.shape]
        mask = np.asarray(Image.fromarray(second).resize(size[::-1]))
        patch = np.asarray(Image.fromarray(photos[other]).resize(size[::-1]))
        rows, columns = np.nonzero(mask)
        if not rows.size:
            continue
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        mask, patch = mask[box], patch[box]
        room = [side - part for side, part in zip(pet.shape, mask.shape, strict=True)]
        if min(room) < 0:
            continue
        steps = (np.linspace(0, side, PLACES, dtype=int) for side in room)
        boxes = [(slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])) for y, x in product(*steps)]
        free = next((box for box in boxes if not (pet[box] & mask).any()), None)
        if free is not None:
            photo, where = photos[name].copy(), np.zeros_like(pet)
            photo[free][mask] = patch[mask]
            where[free] = mask
            yield photo, where


def count_lost(
    composed: list[tuple[Photo, NDArray[np.bool_]]],
    probabilities: list[NDArray[np.float32]],
    thresholds: Thresholds,
    clean: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> tuple[int, int]:
    """Return how many second pets cleaning removes, and how many the whole mask had at least half of."""
    lost = found = 0
    whole = OUTPUTS.index("whole")
    for (_, where), probability in zip(composed, probabilities, strict=True):
        before, after = (
            cut(at_own_size(each, where.shape), thresholds)[whole][where].mean()
            for each in (probability, clean(probability))
        )
        found += bool(before >= 0.5)
        lost += bool(before >= 0.5 and after < before / 2)
    return lost, found


if __name__ == "__main__":
    main()
