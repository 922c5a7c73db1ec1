"""Do photos in their own shape give better masks: ``python -m benchmarks.shape RUN...`` prints a table.

petseg resizes a photo to a square for the network. Here the photo is also resized to its own shape with the
same area, and both probabilities are averaged. Each run predicts the photos that validated it, at their own
size, so the runs of a cross-validation together predict all of its photos. Each prediction is the mean over
the photo and its mirror image, as in infer.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.__main__ import ROOT, SAMPLE
from benchmarks.cleaning import ANSWERS
from petseg.core.progress import progress
from petseg.data.batches import to_input
from petseg.data.images import decode_photo
from petseg.data.preprocess import original_trimaps, photo_files
from petseg.errors import PetsegError
from petseg.evaluation.metrics import bootstrap_interval
from petseg.evaluation.scores import Tallies, tally_each
from petseg.models.masking import cut
from petseg.models.predictor import Predictor, at_own_size
from petseg.params import Boundary
from petseg.predict.load import Model, choose
from petseg.store.layout import VALIDATION

WAYS = ("square", "own shape", "mean of both")
SHOWN: tuple[Boundary, ...] = ("foreground", "background")  # rules; each is answered by another output


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks.shape RUN...")
    tallies: list[dict[str, Tallies]] = []
    for key in sys.argv[1:]:
        model = choose(ROOT, key, torch.device("cpu"))
        if model.run is None:
            sys.exit(f"{key}: is no run, so its validation photos are not known")
        names = pd.read_csv(model.run.folder / VALIDATION, dtype={"name": str})["name"].to_list()
        tallies.append(tally_each(predicted(model, names), ANSWERS))
    dice = {
        (way, rule): np.concatenate([found[way][rule].counts.dice().numpy() for found in tallies])
        for way in WAYS
        for rule in SHOWN
    }
    photos = len(dice[WAYS[0], SHOWN[0]])
    print(f"{photos} validation photos at their own size, by {len(tallies)} runs")
    print(f"| shape | {' | minus square | '.join(f'Dice, {rule}' for rule in SHOWN)} | minus square |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        cells = [cell for rule in SHOWN for cell in against(dice[way, rule], dice[WAYS[0], rule])]
        print(f"| {way} | {' | '.join(cells)} |")


def against(dice: NDArray[np.float64], square: NDArray[np.float64]) -> Iterator[str]:
    """Yield the mean Dice, and its difference from that of the square with a 95 % interval."""
    yield f"{dice.mean():.4f}"
    low, high = bootstrap_interval(dice - square)
    yield f"{np.mean(dice - square):+.4f} ({low:+.4f} to {high:+.4f})" if dice is not square else ""


def predicted(
    model: Model, names: list[str]
) -> Iterator[tuple[str, dict[str, NDArray[np.bool_]], NDArray[np.uint8]]]:
    """Yield the name, the masks of each way and the trimap of each photo."""
    trimaps = dict(original_trimaps(SAMPLE, names))
    predictor = replace(model.predictor, flip_average=True)
    with progress("photos", len(names), transient=True) as advance:
        for name, content in photo_files(SAMPLE, names):
            photo, shape = decode_photo(content), trimaps[name].shape
            square = at_own_size(predictor.probability_of(photo), shape)
            own = at_own_size(in_own_shape(predictor, photo), shape)
            mean = (square + own) * np.float32(0.5)
            masks = (cut(each, model.thresholds) for each in (square, own, mean))
            yield name, dict(zip(WAYS, masks, strict=True)), trimaps[name]
            advance(1)


@torch.inference_mode()
def in_own_shape(predictor: Predictor, photo: Image.Image) -> NDArray[np.float32]:
    """Predict a photo in its own shape, with as many pixels as the square; return (2, H, W)."""
    step: int = predictor.network.size_step  # type: ignore[assignment]  # torch's type is Tensor | Module
    aspect = (photo.width / photo.height) ** 0.5
    width, height = (
        max(step, round(predictor.size_px * side / step) * step) for side in (aspect, 1 / aspect)
    )
    small = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    return predictor.segment(to_input(torch.tensor(small)[None]))[0].numpy()


if __name__ == "__main__":
    try:
        main()
    except PetsegError as error:
        sys.exit(f"petseg: {error}")
