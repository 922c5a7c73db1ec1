"""The effect of Muon's constants on Dice and time: ``python -m benchmarks.muon`` prints a Markdown table.

The learning rate and the weight decay are params; these constants are not. Each value is tried at 64 px and
30 epochs on two folds, as in the sweeps of docs/sweeps.yaml. It uses one thread, so that two can run at once.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.__main__ import ROOT, SAMPLE
from petseg.core.progress import progress
from petseg.data.arrays import PetArrays
from petseg.data.batches import load_photos
from petseg.data.preprocess import pack
from petseg.evaluation.metrics import bootstrap_interval
from petseg.models.device import set_up_torch
from petseg.params import Params, load_params
from petseg.training.loop import TrainingState, fit, train_step, validate
from petseg.training.muon import BLOCK_ROWS, STEPS, Muon
from petseg.training.optim import MOMENTUM

SIZE_PX, EPOCHS, FOLDS, OF_FOLDS = 64, 30, 2, 3
STEPS_TIMED = 5  # after a step that warms up
DEFAULT = {"momentum": MOMENTUM, "steps": STEPS, "block_rows": BLOCK_ROWS}
TRIED: tuple[dict[str, Any], ...] = (
    {},
    *({"steps": steps} for steps in (3, 7)),
    *({"block_rows": rows} for rows in (64, 256)),
    *({"momentum": momentum} for momentum in (0.8, 0.95)),
)


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    params = load_params(ROOT / "params.yaml")
    train = params.train.model_copy(update={"epochs": EPOCHS, "optimizer": "muon"})
    params = params.model_copy(update={"train": train})
    set_up_torch("cpu", 1)
    print(
        f"{SIZE_PX} px, {EPOCHS} epochs, {FOLDS} of {OF_FOLDS} folds, one thread, torch {torch.__version__}\n"
    )
    print("| changed | Dice | minus first line | optimizer, ms per step: UNet | ResNet34-UNet |")
    print("|---|---|---|---|---|")
    first: NDArray[np.float64] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for changes in TRIED:
            dice = np.concatenate(
                [validation_dice(params, changes, fold, Path(folder)) for fold in range(FOLDS)]
            )
            first = dice if first is None else first
            low, high = bootstrap_interval(dice - first)
            less = f"{np.mean(dice - first):+.4f} ({low:+.4f} to {high:+.4f})" if changes else ""
            changed = ", ".join(f"{name} {value}" for name, value in changes.items()) or "nothing"
            cells = (changed, f"{dice.mean():.4f}", less, *costs(params, changes))
            print(f"| {' | '.join(cells)} |", flush=True)


def validation_dice(params: Params, changes: dict[str, Any], fold: int, work: Path) -> NDArray[np.float64]:
    """Train on the other folds; return the Dice of each photo of this fold, the mean of both outputs."""
    split = params.split.model_copy(update={"folds": OF_FOLDS, "fold": fold})
    pack(SAMPLE, work / f"{fold}", work / "r.csv", SIZE_PX, 0.0, split)
    arrays = PetArrays.open(work / f"{fold}")
    train, val = (load_photos(arrays, part, torch.device("cpu")) for part in ("train", "val"))
    state = initial_state(params, params.model.name, changes)
    with progress(f"fold {fold}", EPOCHS, transient=True) as advance:
        for _ in fit(state, train, val, params.train, params.augment):
            advance(1)
    _, outputs = validate(state.evaluated, val, params.train)
    dice: NDArray[np.float64] = outputs.mean(axis=1)
    return dice


def initial_state(params: Params, name: str, changes: dict[str, Any]) -> TrainingState:
    """Return the state before the first epoch, with these constants of Muon changed."""
    model = params.model.model_copy(update={"name": name})
    state = TrainingState.new(model, params.train, torch.device("cpu"))
    groups = [
        {key: group[key] for key in ("params", "weight_decay")} for group in state.optimizer.param_groups
    ]
    state.optimizer = Muon(groups, params.train.learning_rate, **DEFAULT | changes)
    return state


def costs(params: Params, changes: dict[str, Any]) -> Iterator[str]:
    """Yield the milliseconds that the optimizer takes in each network, the median of a few steps."""
    for name in ("unet", "resnet34_unet"):
        state = initial_state(params, name, changes)
        photos, masks = torch.randn(2, 3, SIZE_PX, SIZE_PX), torch.ones(2, 2, SIZE_PX, SIZE_PX)
        train_step(state.network, state.optimizer, photos, masks, params.train, 1e-3)  # leaves gradients
        seconds = []
        for _ in range(STEPS_TIMED):
            started = time.perf_counter()
            state.optimizer.step()
            seconds.append(time.perf_counter() - started)
        yield f"{1e3 * statistics.median(seconds):.0f}"


if __name__ == "__main__":
    main()
