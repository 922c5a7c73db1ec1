"""The work of infer: choose thresholds on validation, predict the test photos, and score them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

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
from petseg.evaluation.scores import (
    LEARNT,
    Answers,
    Tallies,
    Trimap,
    by_group,
    mean_mask,
    photo_scores,
    tally_each,
    under_each_rule,
)
from petseg.evaluation.thresholds import calibration, choose_answers, choose_threshold, threshold_scores
from petseg.models.masking import Thresholds, cut
from petseg.models.predictor import Predictor, enlarged
from petseg.params import OUTPUTS, Boundary, Edge, InferParams

_SHOWN = (
    "dice_per_image",
    "dice_per_image_low",
    "dice_per_image_high",
    "iou_per_image",
    "boundary_f_per_image",
)


@dataclass(frozen=True)
class Predicted:
    """The predictions and choices that are made before a test trimap is read.

    Attributes:
        boundary: the boundary rule of the headline scores.
        validation: (N, 2, S, S), the probabilities of OUTPUTS for the validation photos.
        test: (M, 2, S, S), likewise for the test photos.
        thresholds: for each output, the probability from which a pixel belongs to its mask.
        answers: which output answers each boundary rule.
        clean: whether small islands are dropped, and small holes filled, in the masks that are scored.
        blind: (S, S) bool, the mask of the baseline that never looks at a photo.
        two_outputs: whether the network has two outputs, or one that stands for both.
    """

    boundary: Boundary
    validation: NDArray[np.float32]
    test: NDArray[np.float32]
    thresholds: Thresholds
    answers: Answers
    clean: bool
    blind: NDArray[np.bool_]
    two_outputs: bool = True

    @property
    def edge(self) -> Edge:
        """The output that answers the rule of the headline scores."""
        return self.answers[self.boundary]

    @property
    def threshold(self) -> float:
        """The threshold of the output that answers the rule of the headline scores."""
        return self.thresholds[self.edge]

    def masks(self, place: int, shape: tuple[int, ...], *, clean: bool) -> NDArray[np.bool_]:
        """Return a test photo's masks at the given size, (2, *shape)."""
        _, masks = enlarged(self.test[place], shape, self.thresholds, clean=clean)
        return masks


def predict(predictor: Predictor, arrays: PetArrays, boundary: Boundary, params: InferParams) -> Predicted:
    """Predict the validation and test photos; choose thresholds, answers and the blind mask on validation.

    Args:
        predictor: the network.
        arrays: the packed photos.
        boundary: the boundary rule of the headline scores.
        params: the threshold of both outputs or ``auto``, the number of photos at once, and whether to clean.
    """
    rows = arrays.rows("val")
    trimaps = torch.from_numpy(arrays.trimaps[rows])
    validation = predictor.probability(arrays.images[rows], params.batch_size, "validation")
    rules = LEARNT if predictor.has_two_outputs else dict.fromkeys(OUTPUTS, boundary)
    if params.threshold == "auto":
        thresholds = {
            edge: choose_threshold(validation[:, OUTPUTS.index(edge)], trimaps, rule)
            for edge, rule in rules.items()
        }
    else:
        thresholds = dict.fromkeys(OUTPUTS, params.threshold)
    answers = choose_answers(cut(validation.numpy(), thresholds), trimaps)
    blind = mean_mask(torch.from_numpy(arrays.trimaps[arrays.rows("train")]), boundary)
    share = choose_threshold(blind.expand(trimaps.shape), trimaps, boundary)
    test = predictor.probability(arrays.images[arrays.rows("test")], params.batch_size, "test")
    return Predicted(
        boundary,
        validation.numpy(),
        test.numpy(),
        thresholds,
        answers,
        params.clean,
        (blind >= share).numpy(),
        predictor.has_two_outputs,
    )


def against_truth(arrays: PetArrays, archives: Path, predicted: Predicted) -> dict[str, Tallies]:
    """Score the masks, and the baselines that never look at a photo, by the test trimaps at both sizes.

    Args:
        arrays: the packed photos.
        archives: folder of the trimaps at the photos' own size.
        predicted: the predictions for these photos.

    Returns:
        Counts by the kind of mask: model, own_resolution, both again in the way that params.clean does not
        ask for (cleaned, or as_is), all_foreground, mean_mask.
    """
    rows = arrays.rows("test")
    names, trimaps = arrays.index["name"][rows].to_list(), arrays.trimaps[rows]
    place = {name: i for i, name in enumerate(names)}
    other = "as_is" if predicted.clean else "cleaned"
    blind = np.broadcast_to(predicted.blind, (len(OUTPUTS), *predicted.blind.shape))

    def masks(name: str, trimap: Trimap, *answers: str) -> dict[str, NDArray[np.bool_]]:
        ways = (predicted.clean, not predicted.clean)
        each = (predicted.masks(place[name], trimap.shape, clean=clean) for clean in ways)
        return dict(zip(answers, each, strict=True))

    always = {"all_foreground": np.ones_like(blind), "mean_mask": blind}
    packed = zip(names, trimaps, strict=True)
    at_own_size = watched(original_trimaps(archives, place), "score", len(rows))
    own = ("own_resolution", f"own_resolution_{other}")
    found = tally_each(
        ((name, masks(name, trimap, "model", other) | always, trimap) for name, trimap in packed),
        predicted.answers,
    ) | tally_each(
        ((name, masks(name, trimap, *own), trimap) for name, trimap in at_own_size), predicted.answers
    )
    return {name: found[name] for name in ("model", own[0], other, own[1], *always)}


def write_outputs(
    folder: Path,
    arrays: PetArrays,
    predicted: Predicted,
    scored: dict[str, Tallies],
    run_key: str | None,
) -> None:
    """Write the files of infer (petseg.evaluation.outputs).

    Args:
        folder: where to write them.
        arrays: the packed photos.
        predicted: the predictions for these photos.
        scored: the result of ``against_truth``.
        run_key: key of the run whose weights were used; None if it is unknown.
    """
    rows, boundary = arrays.rows("test"), predicted.boundary
    table = arrays.index.loc[rows, ["name", "breed", "species"]]
    table = table.join(photo_scores(scored["model"][boundary]), on="name")
    table = table.join(photo_scores(scored["own_resolution"][boundary]).add_prefix("own_"), on="name")
    facts: dict[str, Any] = {
        "boundary": boundary,
        "threshold": predicted.threshold,
        "cleaned_masks": predicted.clean,
        "photos": len(rows),
        "photos_undefined": int(table["dice"].isna().sum()),
    }
    if predicted.two_outputs:
        facts |= {"thresholds": dict(predicted.thresholds), "answers": dict(predicted.answers)}
    scores: dict[str, Any] = {name: under_each_rule(tallies, boundary) for name, tallies in scored.items()}
    species = by_group(table, "species").set_index("species").to_dict("index")

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / HEADLINES, facts | headlines(scores))
    write_json(folder / SCORES, {"run_key": run_key} | facts | scores | {"species": species})
    write_table(folder / PER_IMAGE, table)
    write_table(folder / BREEDS, by_group(table, "breed"))
    # These show the probabilities to people; all choices are made before.
    write_table(folder / THRESHOLDS, every_threshold(arrays, predicted))
    output, trimaps = OUTPUTS.index(predicted.edge), torch.from_numpy(arrays.trimaps[rows])
    write_table(
        folder / CALIBRATION, calibration(torch.from_numpy(predicted.test[:, output]), trimaps, boundary)
    )
    shape = (arrays.size_px, arrays.size_px)
    masks = [predicted.masks(place, shape, clean=predicted.clean)[output] for place in range(len(rows))]
    save_masks(folder / PREDICTIONS, np.stack(masks), rows=rows)


def headlines(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the main scores: those of the model under each rule, and fewer of each other kind of mask."""
    model = {name: score for name, score in scores["model"].items() if not isinstance(score, dict)}
    rules = {name: rule for name, rule in scores["model"].items() if isinstance(rule, dict)}
    others = rules | {name: score for name, score in scores.items() if name != "model"}
    return model | {name: {key: score[key] for key in _SHOWN} for name, score in others.items()}


def every_threshold(arrays: PetArrays, predicted: Predicted) -> pd.DataFrame:
    """Score validation and test at every threshold; columns such as ``val_dice_per_image``."""
    output = OUTPUTS.index(predicted.edge)
    tables = (
        threshold_scores(
            torch.from_numpy(probability[:, output]),
            torch.from_numpy(arrays.trimaps[arrays.rows(part)]),
            predicted.boundary,
        ).add_prefix(f"{part}_")
        for part, probability in (("val", predicted.validation), ("test", predicted.test))
    )
    return pd.concat(tables, axis=1).reset_index()
