"""What a pipeline leaves, without one: drawn pets, and masks of them that are a little off."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from petseg.core.textfiles import write_json
from petseg.data.arrays import COLUMNS, IMAGES, INDEX, TRIMAPS, PetArrays
from petseg.data.images import BACKGROUND, BORDER, PET
from petseg.data.masks import save_masks
from petseg.evaluation.scores import by_group, photo_scores, tally, under_each_rule
from petseg.evaluation.thresholds import calibration, threshold_scores
from petseg.report.results import Files

VAL, EPOCHS, SIZE = 3, 4, 32
HOSTILE = "</script><img src=x onerror=alert(1)>"  # which nothing forbids a breed to be called
BREEDS = ("Bengal", "pug", HOSTILE)
KEY = "0123456789abcdef"


def write_results(folder: Path, test: int = 18, breeds: Sequence[str] = BREEDS) -> Files:
    """Write what the stages before plot leave of ``test`` photos; the last has no pet, and no mask."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("pets", "evolution.npz", "predictions.npz", "run.json", "history.csv", "per_image.csv")
    tables = ("breeds.csv", "test.json", "scores.json", "thresholds.csv", "calibration.csv")
    files = Files(*(folder / name for name in (*names, *tables)))
    arrays = _pets(files.arrays, test, breeds)
    rows, trimaps = arrays.rows("test"), arrays.trimaps
    true = trimaps != BACKGROUND
    probability = np.stack([_guess(mask, n) for n, mask in enumerate(true)])
    said = probability >= 0.5

    shown = arrays.rows("val")
    came = [np.roll(true[shown], EPOCHS - epoch, axis=1) for epoch in range(1, EPOCHS + 1)]
    save_masks(files.evolution, np.stack(came), epochs=np.arange(1, EPOCHS + 1), rows=shown)
    save_masks(files.predictions, said[rows], rows=rows)
    write_json(files.run, {"run_key": KEY})
    epochs = np.arange(1, EPOCHS + 1)
    pd.DataFrame({
        "epoch": epochs, "size_px": SIZE, "train_loss": 1 / epochs, "val_loss": 1.1 / epochs,
        "train_dice": 1 - 0.5 / epochs, "val_dice": [0.4, 0.6, 0.7123, 0.7], "learning_rate": 0.01,
        "images_per_s": 100.0, "elapsed_s": 2.0,
    }).to_csv(files.history, index=False)  # fmt: skip

    tested = arrays.index["name"][rows].to_list()
    tallies = {
        "model": tally(zip(tested, said[rows], trimaps[rows], strict=True)),
        "all_foreground": tally(zip(tested, np.ones_like(said[rows]), trimaps[rows], strict=True)),
    }
    told = {name: under_each_rule(each, "foreground") for name, each in tallies.items()}
    told |= {"mean_mask": told["all_foreground"], "own_resolution": told["model"]}
    table = arrays.index.loc[rows, ["name", "breed", "species"]]
    table = table.join(photo_scores(tallies["model"]["foreground"]), on="name")
    headlines: dict[str, object] = {
        name: score for name, score in told["model"].items() if not isinstance(score, dict)
    }
    headlines |= {"boundary": "foreground", "threshold": 0.5, "photos": test, "photos_undefined": 1}
    write_json(files.metrics, {**headlines, **{name: told[name] for name in list(told)[1:]}})
    write_json(files.scores, told)
    table.to_csv(files.per_image, index=False, float_format="%.6f")
    by_group(table, "breed").to_csv(files.breeds, index=False, float_format="%.6f")
    parts = [
        threshold_scores(
            torch.from_numpy(probability[chosen]), torch.from_numpy(trimaps[chosen]), "foreground"
        ).add_prefix(f"{part}_")
        for part, chosen in (("val", shown), ("test", rows))
    ]
    pd.concat(parts, axis=1).reset_index().to_csv(files.thresholds, index=False)
    found = calibration(torch.from_numpy(probability[rows]), torch.from_numpy(trimaps[rows]), "foreground")
    found.to_csv(files.calibration, index=False)
    return files


def without(files: Files, name: str) -> Files:
    """The same, with one file that is not there."""
    path: Path = getattr(files, name)
    return replace(files, **{name: path.with_name("absent")})


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


def _guess(mask: NDArray[np.bool_], n: int) -> NDArray[np.float32]:
    """Probabilities that are right but for a shift, another for each photo."""
    return np.where(np.roll(mask, n % 7, axis=0), 0.9, 0.1).astype(np.float32)
