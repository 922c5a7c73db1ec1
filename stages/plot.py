"""Draw what was prepared, learnt and predicted."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from petseg import plotting
from petseg.data.arrays import PetArrays
from petseg.data.batches import to_target
from petseg.data.masks import load_masks
from petseg.data.packing import first_originals
from petseg.params import Boundary, Params, flat
from petseg.project import git_state, main_root, provenance, sha256_file
from petseg.reach import code_sha256
from petseg.scoring import count_against
from petseg.stage import run_stage
from petseg.store import FIGURES, key_of, now, run_of
from petseg.tracking.outbox import claimed, tell_mlflow

PREPARED_PHOTOS = 3  # in the figure of preprocessing
DPI = 110


def plot(
    params: Params,
    archives: Path,
    arrays_folder: Path,
    evolution: Path,
    predictions: Path,
    run_file: Path,
    history: Path,
    per_image: Path,
    metrics: Path,
    figures: Path,
) -> None:
    started = now()
    arrays, boundary = PetArrays.open(arrays_folder), params.data.boundary
    table = pd.read_csv(
        per_image, dtype={"name": str, "breed": str}, keep_default_na=False, na_values={"dice": "", "iou": ""}
    )
    trivial = json.loads(metrics.read_text(encoding="utf-8"))["all_foreground"]["dice_per_image"]
    drawn = {
        "curves": plotting.curves(pd.read_csv(history)),
        "evolution": evolution_figure(arrays, boundary, evolution, params.plot.evolution_epochs),
        "preprocessing": preprocessing_figure(arrays, boundary, archives),
        "augmentation": plotting.augmentation(*training_photos(arrays), params.augment),
        "examples": examples_figure(arrays, boundary, predictions, table, params.plot.examples),
        "breeds": plotting.dice_by_breed(table),
        "dice_histogram": plotting.dice_histogram(table["dice"], trivial),
    }
    figures.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(figures / f"{name}.png", dpi=DPI, metadata={"Software": None})

    run = run_of(main_root() / "runs", json.loads(run_file.read_text(encoding="utf-8"))["run_key"])
    if run is not None:
        settings = flat(data__boundary=boundary, augment=params.augment, plot=params.plot)
        code, drawn_from = code_sha256(Path(__file__)), sha256_file(per_image)
        made_by = {"started": started, "settings": settings, "data_sha256": arrays.digest}
        made_by |= {"code_sha256": code} | provenance(git_state())
        key = key_of(settings | {"per_image_sha256": drawn_from}, arrays.digest, code)
        with claimed(run.key):
            run.keep(FIGURES, key, made_by, {path.name: path for path in sorted(figures.iterdir())})
        tell_mlflow()
    print(f"{len(drawn)} figures: {figures}")


def truths(arrays: PetArrays, rows: NDArray[np.int64], boundary: Boundary) -> NDArray[np.bool_]:
    """Return true masks, (N, S, S) bool."""
    mask, _ = to_target(torch.from_numpy(arrays.trimaps[rows]), boundary)
    result: NDArray[np.bool_] = mask.squeeze(1).bool().numpy()
    return result


def evolution_figure(
    arrays: PetArrays, boundary: Boundary, evolution: Path, wanted: tuple[int, ...]
) -> Figure:
    """Draw the epochs that are wanted, as far as training came; the last one always."""
    masks, beside = load_masks(evolution)
    rows, epochs = beside["rows"], beside["epochs"]
    places = [i for i, epoch in enumerate(epochs) if epoch in wanted or epoch == epochs[-1]]
    trimaps = torch.from_numpy(arrays.trimaps[rows])
    dices = [count_against(torch.from_numpy(masks[i]), trimaps, boundary).dice().numpy() for i in places]
    return plotting.evolution(
        arrays.images[rows],
        truths(arrays, rows, boundary),
        masks[places],
        epochs[places].tolist(),
        np.stack(dices),
    )


def preprocessing_figure(arrays: PetArrays, boundary: Boundary, archives: Path) -> Figure:
    row_of = {name: row for row, name in enumerate(arrays.index["name"])}
    originals = first_originals(archives, row_of.keys(), PREPARED_PHOTOS)
    rows = np.array([row_of[name] for name, _ in originals])
    return plotting.preprocessing(
        originals, arrays.images[rows], arrays.trimaps[rows], truths(arrays, rows, boundary)
    )


def training_photos(arrays: PetArrays) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rows = arrays.rows("train")[[0, -1]]
    return arrays.images[rows], arrays.trimaps[rows]


def examples_figure(
    arrays: PetArrays, boundary: Boundary, predictions: Path, table: pd.DataFrame, count: int
) -> Figure:
    masks, beside = load_masks(predictions)
    true = truths(arrays, beside["rows"], boundary)
    order = table["dice"].dropna().sort_values(ascending=False, kind="stable").index
    middle = max(0, (len(order) - count) // 2)
    chosen = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}

    def shown(places: pd.Index) -> Iterator[plotting.Example]:
        for place in places:
            title = f"{table['name'][place]}, Dice {table['dice'][place]:.3f}"
            image = arrays.images[beside["rows"][place]]
            yield plotting.Example(title, image, true[place], masks[place])

    return plotting.examples({name: list(shown(places)) for name, places in chosen.items()}, len(table))


if __name__ == "__main__":
    run_stage(plot)
