"""What infer does: it chooses on validation, predicts the test photos, and holds them against the truth."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from petseg.core.progress import watched
from petseg.core.textfiles import write_json, write_table
from petseg.data.arrays import PetArrays
from petseg.data.masks import save_masks
from petseg.data.preprocess import original_trimaps
from petseg.evaluation.outputs import (
    BREEDS,
    CALIBRATION,
    HEADLINES,
    PER_IMAGE,
    PREDICTIONS,
    SCORES,
    THRESHOLDS,
)
from petseg.evaluation.scores import Tallies, by_group, mean_mask, photo_scores, tally, under_each_rule
from petseg.evaluation.thresholds import calibration, choose_threshold, threshold_scores
from petseg.models.predictor import Predictor, at_own_size
from petseg.params import Boundary, InferParams

_SHOWN = (
    "dice_per_image",
    "dice_per_image_low",
    "dice_per_image_high",
    "iou_per_image",
    "boundary_f_per_image",
)


@dataclass(frozen=True)
class Predicted:
    """What was predicted and chosen before a test trimap was looked at.

    Attributes:
        validation: (N, S, S) float, the probability of pet for the validation photos.
        test: likewise, for the M test photos.
        threshold: from which probability a pixel is pet.
        blind: (S, S) bool, the one mask of who never looks at a photo.
    """

    validation: Tensor
    test: Tensor
    threshold: float
    blind: NDArray[np.bool_]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """The masks of the test photos, (M, S, S) bool."""
        masks: NDArray[np.bool_] = (self.test >= self.threshold).numpy()
        return masks


def predict(predictor: Predictor, arrays: PetArrays, boundary: Boundary, params: InferParams) -> Predicted:
    """Predict the photos of validation and test; validation chooses the threshold and the blind mask.

    Args:
        predictor: the network.
        arrays: the packed photos.
        boundary: what the trimaps' border counts as.
        params: the threshold, or ``auto``; and how many photos at once.
    """
    rows = arrays.rows("val")
    trimaps = torch.from_numpy(arrays.trimaps[rows])
    validation = predictor.probability(arrays.images[rows], params.batch_size, "validation")
    threshold = params.threshold
    if threshold == "auto":
        threshold = choose_threshold(validation, trimaps, boundary)
    blind = mean_mask(torch.from_numpy(arrays.trimaps[arrays.rows("train")]), boundary)
    cut = choose_threshold(blind.expand(trimaps.shape), trimaps, boundary)
    test = predictor.probability(arrays.images[arrays.rows("test")], params.batch_size, "test")
    return Predicted(validation, test, threshold, (blind >= cut).numpy())


def against_truth(arrays: PetArrays, archives: Path, predicted: Predicted) -> dict[str, Tallies]:
    """Hold the masks against the test trimaps at both sizes, and the answers that never look at a photo.

    Args:
        arrays: the packed photos.
        archives: folder of the trimaps at the photos' own size.
        predicted: for these photos.

    Returns:
        Counts by the answer: model, own_resolution, all_foreground, mean_mask.
    """
    rows, masks = arrays.rows("test"), predicted.masks
    names, trimaps = arrays.index["name"][rows].to_list(), arrays.trimaps[rows]
    place = {name: i for i, name in enumerate(names)}
    originals = watched(original_trimaps(archives, place), "score", len(rows))
    own = (
        (name, at_own_size(predicted.test[place[name]], trimap.shape) >= predicted.threshold, trimap)
        for name, trimap in originals
    )
    return {
        "model": tally(zip(names, masks, trimaps, strict=True)),
        "own_resolution": tally(own),
        "all_foreground": tally(zip(names, np.ones_like(masks), trimaps, strict=True)),
        "mean_mask": tally(zip(names, np.broadcast_to(predicted.blind, masks.shape), trimaps, strict=True)),
    }


def write_outputs(
    folder: Path,
    arrays: PetArrays,
    boundary: Boundary,
    predicted: Predicted,
    answers: dict[str, Tallies],
    run_key: str | None,
) -> None:
    """Write what infer leaves: petseg.evaluation.outputs.

    Args:
        folder: where to.
        arrays: the packed photos.
        boundary: what the trimaps' border counts as.
        predicted: for these photos.
        answers: of ``against_truth``.
        run_key: of the run whose weights predicted, as far as it is known.
    """
    rows = arrays.rows("test")
    table = arrays.index.loc[rows, ["name", "breed", "species"]]
    table = table.join(photo_scores(answers["model"][boundary]), on="name")
    table = table.join(photo_scores(answers["own_resolution"][boundary]).add_prefix("own_"), on="name")
    told: dict[str, Any] = {"boundary": boundary, "threshold": predicted.threshold, "photos": len(rows)}
    told["photos_undefined"] = int(table["dice"].isna().sum())
    scores: dict[str, Any] = {name: under_each_rule(tallies, boundary) for name, tallies in answers.items()}
    species = by_group(table, "species").set_index("species").to_dict("index")

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / HEADLINES, told | headlines(scores))
    write_json(folder / SCORES, {"run_key": run_key} | told | scores | {"species": species})
    write_table(folder / PER_IMAGE, table)
    write_table(folder / BREEDS, by_group(table, "breed"))
    # Views of the probabilities, for people; all is chosen.
    write_table(folder / THRESHOLDS, every_threshold(arrays, predicted, boundary))
    trimaps = torch.from_numpy(arrays.trimaps[rows])
    write_table(folder / CALIBRATION, calibration(predicted.test, trimaps, boundary))
    save_masks(folder / PREDICTIONS, predicted.masks, rows=rows)


def headlines(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the scores that matter: the model's under the rule in use, and fewer of each other answer."""
    model = {name: score for name, score in scores["model"].items() if not isinstance(score, dict)}
    others = {name: {key: scores[name][key] for key in _SHOWN} for name in scores if name != "model"}
    return model | others


def every_threshold(arrays: PetArrays, predicted: Predicted, boundary: Boundary) -> pd.DataFrame:
    """Score validation and test at every threshold; columns such as ``val_dice_per_image``."""
    tables = (
        threshold_scores(
            probability, torch.from_numpy(arrays.trimaps[arrays.rows(part)]), boundary
        ).add_prefix(f"{part}_")
        for part, probability in (("val", predicted.validation), ("test", predicted.test))
    )
    return pd.concat(tables, axis=1).reset_index()
