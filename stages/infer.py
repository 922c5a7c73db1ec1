"""Predict the test photos with the best weights, at the threshold that validation chose; score them."""

import json
from pathlib import Path

import torch

from petseg.compute import set_up_torch
from petseg.data.arrays import PetArrays
from petseg.data.masks import save_masks
from petseg.inference import Predictor, choose_threshold
from petseg.metrics import scores
from petseg.params import Params
from petseg.records import write_json
from petseg.scoring import count_against, other_scores
from petseg.stage import run_stage
from petseg.tracking import flat, stage_run
from petseg.tracking.logged_model import log_model


def infer(
    params: Params,
    arrays_folder: Path,
    weights: Path,
    about: Path,
    run_file: Path,
    metrics: Path,
    per_image: Path,
    predictions: Path,
) -> None:
    boundary = params.data.boundary
    device = set_up_torch(params.train.device, params.train.threads)
    arrays = PetArrays.open(arrays_folder)
    predictor = Predictor.load(weights, about, device, params.infer.flip_average)

    # Everything is chosen before the test photos' trimaps are looked at.
    threshold = chosen_threshold(predictor, arrays, params)
    rows = arrays.rows("test")
    masks = predictor.probability(arrays.images[rows], params.infer.batch_size, "test") >= threshold

    trimaps = torch.from_numpy(arrays.trimaps[rows])
    counts = count_against(masks, trimaps, boundary)
    undefined = int(counts.dice().isnan().sum())
    result = {"threshold": threshold, "photos": len(rows), "photos_undefined": undefined} | scores(counts)
    others = other_scores(masks, trimaps, boundary)
    table = arrays.index.loc[rows, ["name", "breed", "species"]]
    table.assign(dice=counts.dice().numpy(), iou=counts.iou().numpy()).to_csv(
        per_image, index=False, float_format="%.6f", lineterminator="\n"
    )
    save_masks(predictions, masks.numpy(), rows=rows)
    write_json(metrics, {"boundary": boundary} | result | others)

    run = json.loads(run_file.read_text(encoding="utf-8"))
    settings = flat(data__boundary=boundary, infer=params.infer)
    known = {"run_key": run["run_key"], "data_sha256": arrays.digest}
    with stage_run("infer", settings, known, parent_id=run["mlflow_run_id"]) as log:
        log.dataset("pets", arrays.digest, str(arrays_folder), "test")
        log.mirrored_metrics({f"test/{name}": value for name, value in result.items()})
        log.artifact(metrics, "test")
        log.artifact(per_image, "test")
        decision = {"threshold": threshold, "flip_average": params.infer.flip_average}
        example = arrays.images[rows[:2]]
        log.on_model_row(lambda client, run_id: log_model(client, run_id, weights, about, decision, example))
    print(
        "test Dice {dice_per_image:.4f} ({dice_per_image_low:.4f} to {dice_per_image_high:.4f}), "
        "IoU {iou_per_image:.4f}, {photos} photos, threshold {threshold:g}; ".format(**result)
        + f"all foreground {others['all_foreground']['dice_per_image']:.4f}: {metrics}"
    )


def chosen_threshold(predictor: Predictor, arrays: PetArrays, params: Params) -> float:
    """Return infer.threshold, or where it is auto the best for validation."""
    if params.infer.threshold != "auto":
        return params.infer.threshold
    rows = arrays.rows("val")
    probability = predictor.probability(arrays.images[rows], params.infer.batch_size, "validation")
    return choose_threshold(probability, torch.from_numpy(arrays.trimaps[rows]), params.data.boundary)


if __name__ == "__main__":
    run_stage(infer)
