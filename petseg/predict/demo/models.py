"""The networks that the page offers; those used last stay in memory."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch

from petseg.core.checked import read_record
from petseg.core.terminal import print_lines
from petseg.errors import PetsegError, UsageError
from petseg.models.description import Described
from petseg.models.masking import UNDECIDED, Thresholds
from petseg.params import ModelParams
from petseg.predict.load import Model, choose
from petseg.store.champion import champion
from petseg.store.layout import ABOUT
from petseg.store.run import StoredRun
from petseg.store.runs import readable_runs, run_of

GIVEN = "given"  # the key of weights that are no run's
_KEPT = 2  # networks that stay in memory, besides the first


@dataclass(frozen=True)
class Offer:
    """A network, as the page describes it.

    Attributes:
        key: the run's key, or GIVEN.
        name: the name that the page shows.
        network: the network's kind and size.
        val_dice: validation Dice of the best epoch; None if it is not known.
        test_dice: mean Dice over the test photos; None if infer has not run.
        thresholds: the probability from which a pixel is in each mask, until the user moves it.
        two_outputs: whether the network has two outputs, and so two masks: with and without the border strip.
        champion: whether the run is the champion.
    """

    key: str
    name: str
    network: str
    val_dice: float | None
    test_dice: float | None
    thresholds: Thresholds
    two_outputs: bool
    champion: bool

    @classmethod
    def of_run(cls, run: StoredRun, champion: bool) -> Self:
        """Describe a finished run."""
        found = run.evaluation
        return cls(
            key=run.key,
            name=f"run {run.key[:8]}",
            network=run.network,
            val_dice=run.val_dice,
            test_dice=found.headlines.get("dice_per_image") if found else None,
            thresholds=found.thresholds if found else UNDECIDED,
            two_outputs=_has_two_outputs(run),
            champion=champion,
        )

    @classmethod
    def of_weights(cls, key: str, model: Model) -> Self:
        """Describe weights that are no run's."""
        about = ModelParams.model_validate(model.predictor.about["model"])
        return cls(
            key=key,
            name=model.name,
            network=f"{about.name}, width {about.width}, depth {about.depth}",
            val_dice=None,
            test_dice=None,
            thresholds=model.thresholds,
            two_outputs=model.predictor.has_two_outputs,
            champion=False,
        )


def _has_two_outputs(run: StoredRun) -> bool:
    try:
        return "outputs" in read_record(run.folder / ABOUT, Described)
    except (PetsegError, OSError):  # shown as one output; an attempt to use it names the damage
        return False


class Models:
    """The store's finished runs, and the model that the page begins with.

    Args:
        root: the project's root.
        wanted: the model to begin with, as for petseg.predict.load.choose.
        device: the device to compute on.

    Raises:
        PetsegError: the model to begin with can't be loaded.
    """

    def __init__(self, root: Path, wanted: str | None, device: torch.device) -> None:
        self._store, self._device = root / "runs", device
        self._first = choose(root, wanted, device)
        print_lines(f"the page begins with {self._first.name}")
        run, about = self._first.run, self._first.predictor.about
        # A checkpoint belongs to a run too, but has other weights than the finished run.
        is_run = run is not None and run.manifest.get("tensors_sha256") == about["tensors_sha256"]
        self.first_key = run.key if run is not None and is_run else GIVEN
        self._loaded = lru_cache(_KEPT)(self._load)

    def offers(self) -> list[Offer]:
        """Describe each network, the newest first."""
        champion_key = champion(self._store)
        runs = [run for run in readable_runs(self._store) if run.usable]
        offers = [Offer.of_run(run, run.key == champion_key) for run in reversed(runs)]
        if self.first_key not in [offer.key for offer in offers]:
            offers.insert(0, Offer.of_weights(self.first_key, self._first))
        return offers

    def get(self, key: str) -> Model:
        """Return the network with this key, from memory if it was used lately.

        Raises:
            UsageError: the store has no such finished run.
            StoreError: the run can't be read.
        """
        return self._first if key == self.first_key else self._loaded(key)

    def _load(self, key: str) -> Model:
        # The key becomes part of a path below, so it must be the key of an existing run.
        there = key in {run.key for run in readable_runs(self._store) if run.usable}
        run = run_of(self._store, key) if there else None
        if run is None:
            raise UsageError("no finished run of the store has this key")
        return Model.of_run(run, self._device)
