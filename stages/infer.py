"""Predict the test photos with the best weights, as validation decided; score them at both resolutions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from petseg.core.progress import watched
from petseg.core.project import git_state, main_root, now, provenance
from petseg.core.textfiles import write_json
from petseg.data.arrays import PetArrays
from petseg.data.masks import save_masks
from petseg.data.preprocess import original_trimaps
from petseg.evaluation.scores import Tallies, by_group, mean_mask, photo_scores, tally, under_each_rule
from petseg.evaluation.thresholds import calibration, choose_threshold, threshold_scores
from petseg.models.device import set_up_torch
from petseg.models.predictor import Predictor, at_own_size
from petseg.params import Boundary, Params, flat
from petseg.pipeline.codehash import code_sha256
from petseg.pipeline.stage import run_stage
from petseg.store.card import write_card
from petseg.store.layout import (
    BREEDS,
    CALIBRATION,
    EVALUATIONS,
    HEADLINES,
    PER_IMAGE,
    SCORES,
    THRESHOLDS,
    key_of,
)
from petseg.store.run import run_of
from petseg.tracking.outbox import claimed, tell_mlflow

SHOWN = (
    *("dice_per_image", "dice_per_image_low", "dice_per_image_high"),
    *("iou_per_image", "boundary_f_per_image"),
)


def infer(
    params: Params,
    archives: Path,
    arrays_folder: Path,
    weights: Path,
    about: Path,
    run_file: Path,
    metrics: Path,
    scores: Path,
    per_image: Path,
    breeds: Path,
    thresholds: Path,
    calibrated: Path,
    predictions: Path,
) -> None:
    started, boundary = now(), params.data.boundary
    device = set_up_torch(params.train.device, params.train.threads)
    arrays = PetArrays.open(arrays_folder)
    predictor = Predictor.load(weights, about, device, params.infer.flip_average)

    # All is chosen, and every test photo predicted, before a test trimap is looked at.
    val_rows, rows = arrays.rows("val"), arrays.rows("test")
    validation = predictor.probability(arrays.images[val_rows], params.infer.batch_size, "validation")
    threshold, blind = choices(validation, arrays, params)
    probability = predictor.probability(arrays.images[rows], params.infer.batch_size, "test")

    answers = against_truth(arrays, archives, probability, threshold, blind)
    model, own = answers["model"][boundary], answers["own_resolution"][boundary]
    table = arrays.index.loc[rows, ["name", "breed", "species"]]
    table = table.join(photo_scores(model), on="name").join(photo_scores(own).add_prefix("own_"), on="name")
    everything: dict[str, Any] = {
        name: under_each_rule(tallies, boundary) for name, tallies in answers.items()
    }
    undefined = int(table["dice"].isna().sum())
    result: dict[str, Any] = {"threshold": threshold, "photos": len(rows), "photos_undefined": undefined}
    result |= {name: score for name, score in everything["model"].items() if not isinstance(score, dict)}
    headlines = {
        answer: {name: told[name] for name in SHOWN}
        for answer, told in everything.items()
        if answer != "model"
    }
    species = by_group(table, "species").set_index("species").to_dict("index")

    write_json(metrics, {"boundary": boundary} | result | headlines)
    write_json(scores, {"boundary": boundary, "threshold": threshold} | everything | {"species": species})
    write_table(per_image, table)
    write_table(breeds, by_group(table, "breed"))
    # Views of the probabilities, for people; all is chosen.
    parts = {"val": (validation, val_rows), "test": (probability, rows)}
    write_table(thresholds, every_threshold(arrays, parts, boundary))
    write_table(calibrated, calibration(probability, torch.from_numpy(arrays.trimaps[rows]), boundary))
    save_masks(predictions, (probability >= threshold).numpy(), rows=rows)

    run_key = json.loads(run_file.read_text(encoding="utf-8"))["run_key"]
    run = run_of(main_root() / "runs", run_key)
    if run is not None:
        settings = flat(data__boundary=boundary, infer=params.infer)
        code = code_sha256(Path(__file__))
        files = {HEADLINES: metrics, SCORES: scores, PER_IMAGE: per_image, BREEDS: breeds}
        files |= {THRESHOLDS: thresholds, CALIBRATION: calibrated}
        made_by = {"started": started, "settings": settings, "data_sha256": arrays.digest}
        made_by |= {"code_sha256": code} | provenance(git_state())
        key = key_of(settings, arrays.digest, code)
        with claimed(run.key):
            run.keep(EVALUATIONS, key, made_by, files)
            write_card(run)
        tell_mlflow()
    else:
        print(f"warning: run {run_key} is not in runs/, so MLflow is not told; petseg runs adopt {weights}")
    print(
        "test Dice {dice_per_image:.4f} ({dice_per_image_low:.4f} to {dice_per_image_high:.4f}), "
        "IoU {iou_per_image:.4f}, {photos} photos, threshold {threshold:g}; ".format(**result)
        + ", ".join(f"{name} {told['dice_per_image']:.4f}" for name, told in headlines.items())
        + f": {metrics}"
    )


def against_truth(
    arrays: PetArrays, archives: Path, probability: Tensor, threshold: float, blind: NDArray[np.bool_]
) -> dict[str, Tallies]:
    """Hold the model's masks against the test trimaps at both sizes, and the trivial answers beside them."""
    rows = arrays.rows("test")
    names, trimaps = arrays.index["name"][rows].to_list(), arrays.trimaps[rows]
    masks = (probability >= threshold).numpy()
    place = {name: i for i, name in enumerate(names)}
    originals = watched(original_trimaps(archives, place), "score", len(rows))
    own = (
        (name, at_own_size(probability[place[name]], trimap.shape) >= threshold, trimap)
        for name, trimap in originals
    )
    return {
        "model": tally(zip(names, masks, trimaps, strict=True)),
        "own_resolution": tally(own),
        "all_foreground": tally(zip(names, np.ones_like(masks), trimaps, strict=True)),
        "mean_mask": tally(zip(names, np.broadcast_to(blind, masks.shape), trimaps, strict=True)),
    }


def choices(probability: Tensor, arrays: PetArrays, params: Params) -> tuple[float, NDArray[np.bool_]]:
    """Return the threshold, and the one mask of who never looks at a photo; validation chooses both."""
    boundary = params.data.boundary
    trimaps = torch.from_numpy(arrays.trimaps[arrays.rows("val")])
    threshold = params.infer.threshold
    if threshold == "auto":
        threshold = choose_threshold(probability, trimaps, boundary)
    blind = mean_mask(torch.from_numpy(arrays.trimaps[arrays.rows("train")]), boundary)
    cut = choose_threshold(blind.expand(trimaps.shape), trimaps, boundary)
    return threshold, (blind >= cut).numpy()


def every_threshold(
    arrays: PetArrays, parts: dict[str, tuple[Tensor, NDArray[np.int64]]], boundary: Boundary
) -> pd.DataFrame:
    """Score each part's probabilities at every threshold; columns such as ``val_dice_per_image``."""
    tables = (
        threshold_scores(probability, torch.from_numpy(arrays.trimaps[rows]), boundary).add_prefix(f"{part}_")
        for part, (probability, rows) in parts.items()
    )
    return pd.concat(tables, axis=1).reset_index()


def write_table(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


if __name__ == "__main__":
    run_stage(infer)
