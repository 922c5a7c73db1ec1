"""The files that a pipeline leaves, without running one: drawn pets, and masks that are a little wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from petseg.core.textfiles import write_json
from petseg.data.arrays import COLUMNS, IMAGES, INDEX, TRIMAPS, PetArrays
from petseg.data.images import BACKGROUND, BORDER, PET
from petseg.data.masks import save_masks
from petseg.evaluation.evaluate import headlines
from petseg.evaluation.outputs import BREEDS as BREEDS_TABLE
from petseg.evaluation.outputs import CALIBRATION, HEADLINES, PER_IMAGE, PREDICTIONS, SCORES, THRESHOLDS
from petseg.evaluation.scores import Answers, by_group, photo_scores, tally, under_each_rule
from petseg.evaluation.thresholds import calibration, threshold_scores
from petseg.params import OUTPUTS, Boundary, Edge
from petseg.report.results import Results

VAL, EPOCHS, SIZE = 3, 4, 32
HOSTILE = "</script><img src=x onerror=alert(1)>"  # a possible name of a breed
BREEDS = ("Bengal", "pug", HOSTILE)
KEY = "0123456789abcdef"
ANSWERS: Answers = {"foreground": "whole", "background": "tight", "ignore": "tight"}
IN_USE: dict[Edge, float] = {"whole": 0.5, "tight": 0.4}  # thresholds
_OTHER_RULES = {f"boundary_{rule}" for rule in ANSWERS}


def write_results(
    folder: Path,
    test: int = 18,
    breeds: Sequence[str] = BREEDS,
    boundary: Boundary = "foreground",
    outputs: int = 2,
) -> Results:
    """Write the files that the stages before plot leave. The last test photo has no pet and an empty mask.

    Args:
        folder: to write into.
        test: the number of test photos.
        breeds: the names of the breeds.
        boundary: the rule of the headline scores.
        outputs: of the network; 1 is an older network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = results_in(folder)
    made.folder.mkdir()
    arrays = _pets(made.arrays_folder, test, breeds)
    rows, trimaps = arrays.rows("test"), arrays.trimaps
    true = np.stack([trimaps != BACKGROUND, trimaps == PET], axis=1)
    probability = np.stack([_guess(masks, n) for n, masks in enumerate(true)])
    predicted = probability >= 0.5
    edge = ANSWERS[boundary] if outputs == 2 else "whole"
    place = OUTPUTS.index(edge)

    _write_training(made, true[arrays.rows("val")], arrays.rows("val"), outputs)
    save_masks(made.folder / PREDICTIONS, predicted[rows, place], rows=rows)
    tested = arrays.index["name"][rows].to_list()
    answers: Answers = ANSWERS if outputs == 2 else dict.fromkeys(ANSWERS, "whole")
    tallies = {
        name: tally(zip(tested, masks, trimaps[rows], strict=True), answers)
        for name, masks in (("model", predicted[rows]), ("all_foreground", np.ones_like(predicted[rows])))
    }
    by_mask = {name: under_each_rule(each, boundary) for name, each in tallies.items()}
    by_mask |= {"mean_mask": by_mask["all_foreground"], "own_resolution": by_mask["model"]}
    about: dict[str, object] = {"boundary": boundary, "threshold": IN_USE[edge], "photos": test}
    about |= {"photos_undefined": 1}
    if outputs == 2:
        by_mask |= {"cleaned": by_mask["model"], "own_resolution_cleaned": by_mask["model"]}
        about |= {"answers": ANSWERS, "thresholds": IN_USE, "cleaned_masks": False}
    scores = headlines(by_mask)
    if outputs == 1:
        scores = {name: score for name, score in scores.items() if name not in _OTHER_RULES}
    write_json(made.folder / HEADLINES, about | scores)
    write_json(made.folder / SCORES, {"run_key": KEY, **by_mask})
    table = arrays.index.loc[rows, ["name", "breed", "species"]]
    table = table.join(photo_scores(tallies["model"][boundary]), on="name")
    table.to_csv(made.folder / PER_IMAGE, index=False, float_format="%.6f")
    by_group(table, "breed").to_csv(made.folder / BREEDS_TABLE, index=False, float_format="%.6f")
    _write_views(made, arrays, torch.from_numpy(probability[:, place].copy()), boundary)
    return made


def _write_training(made: Results, true: NDArray[np.bool_], shown: NDArray[np.int64], outputs: int) -> None:
    """Write what training leaves: masks (K, 2, S, S) that come nearer to the true ones, and the history."""
    epochs = np.arange(1, EPOCHS + 1)
    masks = np.stack([np.roll(true, EPOCHS - epoch, axis=2) for epoch in epochs])
    beside = {"epochs": epochs, "rows": shown}
    if outputs == 2:
        save_masks(made.evolution_file, masks, **beside, outputs=np.arange(2))
    else:
        save_masks(made.evolution_file, masks[:, :, 0], **beside)
    val_dice = np.array([0.4, 0.6, 0.7123, 0.7])
    of_outputs = {"val_dice_whole": val_dice + 0.1, "val_dice_tight": val_dice - 0.1} if outputs == 2 else {}
    pd.DataFrame({
        "epoch": epochs, "size_px": SIZE, "train_loss": 1 / epochs, "val_loss": 1.1 / epochs,
        "train_dice": 1 - 0.5 / epochs, "val_dice": val_dice, **of_outputs, "learning_rate": 0.01,
    }).to_csv(made.history_file, index=False, float_format="%.6g")  # fmt: skip


def _write_views(made: Results, arrays: PetArrays, probability: torch.Tensor, boundary: Boundary) -> None:
    """Write the scores at every threshold, and the calibration."""
    trimaps = torch.tensor(arrays.trimaps)
    parts = [
        threshold_scores(probability[rows], trimaps[rows], boundary).add_prefix(f"{part}_")
        for part, rows in (("val", arrays.rows("val")), ("test", arrays.rows("test")))
    ]
    pd.concat(parts, axis=1).reset_index().to_csv(made.folder / THRESHOLDS, index=False)
    rows = arrays.rows("test")
    calibration(probability[rows], trimaps[rows], boundary).to_csv(made.folder / CALIBRATION, index=False)


def results_in(folder: Path) -> Results:
    """Return the paths of the files that ``write_results`` writes."""
    return Results(folder / "pets", folder / "evolution.npz", folder / "history.csv", folder / "test")


def _pets(folder: Path, test: int, breeds: Sequence[str]) -> PetArrays:
    random = np.random.default_rng(0)
    count = VAL + test
    coarse = random.integers(40, 216, (count, 2, 2, 3), dtype=np.uint8)
    images = np.repeat(np.repeat(coarse, SIZE // 2, axis=1), SIZE // 2, axis=2)
    trimaps = np.full((count, SIZE, SIZE), BACKGROUND, np.uint8)
    for n, trimap in enumerate(trimaps[:-1]):
        half = 4 + n % 9
        trimap[16 - half : 16 + half, 16 - half : 16 + half] = BORDER
        trimap[17 - half : 15 + half, 17 - half : 15 + half] = PET
        images[n][trimap == PET] = random.integers(0, 256, 3)
    folder.mkdir(exist_ok=True)
    np.save(folder / IMAGES, images)
    np.save(folder / TRIMAPS, trimaps)
    rows = []
    for n in range(count):
        breed = breeds[n % len(breeds)]
        split = "val" if n < VAL else "test"
        rows.append((f"{breed}_{n}", breed, "cat" if breed[0].isupper() else "dog", split, SIZE, SIZE))
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / INDEX, index=False)
    return PetArrays.open(folder)


def _guess(masks: NDArray[np.bool_], n: int) -> NDArray[np.float32]:
    """Return probabilities of masks (2, S, S) that are shifted, by another distance for each photo."""
    return np.where(np.roll(masks, n % 7, axis=1), 0.9, 0.1).astype(np.float32)
