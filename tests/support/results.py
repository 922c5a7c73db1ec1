"""What a pipeline leaves, without one: drawn pets, and masks of them that are a little off."""

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
from petseg.evaluation.outputs import BREEDS as BREEDS_TABLE
from petseg.evaluation.outputs import CALIBRATION, HEADLINES, PER_IMAGE, PREDICTIONS, SCORES, THRESHOLDS
from petseg.evaluation.scores import by_group, photo_scores, tally, under_each_rule
from petseg.evaluation.thresholds import calibration, threshold_scores
from petseg.report.results import Results

VAL, EPOCHS, SIZE = 3, 4, 32
HOSTILE = "</script><img src=x onerror=alert(1)>"  # which nothing forbids a breed to be called
BREEDS = ("Bengal", "pug", HOSTILE)
KEY = "0123456789abcdef"


def write_results(folder: Path, test: int = 18, breeds: Sequence[str] = BREEDS) -> Results:
    """Write what the stages before plot leave of ``test`` photos; the last has no pet, and no mask."""
    folder.mkdir(parents=True, exist_ok=True)
    made = results_in(folder)
    made.folder.mkdir()
    arrays = _pets(made.arrays_folder, test, breeds)
    rows, trimaps = arrays.rows("test"), arrays.trimaps
    true = trimaps != BACKGROUND
    probability = np.stack([_guess(mask, n) for n, mask in enumerate(true)])
    said = probability >= 0.5

    shown = arrays.rows("val")
    came = [np.roll(true[shown], EPOCHS - epoch, axis=1) for epoch in range(1, EPOCHS + 1)]
    save_masks(made.evolution_file, np.stack(came), epochs=np.arange(1, EPOCHS + 1), rows=shown)
    save_masks(made.folder / PREDICTIONS, said[rows], rows=rows)
    epochs = np.arange(1, EPOCHS + 1)
    pd.DataFrame({
        "epoch": epochs, "size_px": SIZE, "train_loss": 1 / epochs, "val_loss": 1.1 / epochs,
        "train_dice": 1 - 0.5 / epochs, "val_dice": [0.4, 0.6, 0.7123, 0.7], "learning_rate": 0.01,
    }).to_csv(made.history_file, index=False)  # fmt: skip

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
    write_json(made.folder / HEADLINES, {**headlines, **{name: told[name] for name in list(told)[1:]}})
    write_json(made.folder / SCORES, {"run_key": KEY, **told})
    table.to_csv(made.folder / PER_IMAGE, index=False, float_format="%.6f")
    by_group(table, "breed").to_csv(made.folder / BREEDS_TABLE, index=False, float_format="%.6f")
    parts = [
        threshold_scores(
            torch.from_numpy(probability[chosen]), torch.from_numpy(trimaps[chosen]), "foreground"
        ).add_prefix(f"{part}_")
        for part, chosen in (("val", shown), ("test", rows))
    ]
    pd.concat(parts, axis=1).reset_index().to_csv(made.folder / THRESHOLDS, index=False)
    found = calibration(torch.from_numpy(probability[rows]), torch.from_numpy(trimaps[rows]), "foreground")
    found.to_csv(made.folder / CALIBRATION, index=False)
    return made


def results_in(folder: Path) -> Results:
    """Return what ``write_results`` wrote."""
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


def _guess(mask: NDArray[np.bool_], n: int) -> NDArray[np.float32]:
    """Probabilities that are right but for a shift, another for each photo."""
    return np.where(np.roll(mask, n % 7, axis=0), 0.9, 0.1).astype(np.float32)
