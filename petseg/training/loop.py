"""The training loop: a generator that yields one record per epoch."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from petseg.data.batches import Photos, masks_of_outputs, normalize, to_input
from petseg.errors import NonFiniteLoss
from petseg.evaluation.metrics import PixelCounts, count_pixels, mean
from petseg.models.network import Network
from petseg.models.networks import build_network, placed
from petseg.models.resnet34_unet import load_encoder
from petseg.params import OUTPUTS, AugmentParams, ModelParams, TrainParams
from petseg.training.augment import augment, draw
from petseg.training.history import EpochRecord
from petseg.training.losses import LOSSES
from petseg.training.optim import build_optimizer, learning_rate, update_average

_ORDER_STREAM = 0
_VALIDATION_BATCH = 64


@dataclass
class TrainingState:
    """Everything that changes during training; the state after an epoch is enough to continue exactly."""

    network: Network
    average: Network | None
    optimizer: Optimizer
    epoch: int = 0
    val_dice: list[float] = field(default_factory=list)

    @classmethod
    def new(
        cls, model: ModelParams, train: TrainParams, device: torch.device, encoder: Path | None = None
    ) -> Self:
        """Return the state before the first epoch.

        Args:
            model: which network.
            train: how to train; the weights are drawn from its seed.
            device: where to train.
            encoder: file of the weights that the encoder starts from; None for random ones.
        """
        with torch.random.fork_rng():
            torch.manual_seed(train.seed)
            network = build_network(model)
        if encoder is not None:
            load_encoder(network, encoder)
        network = placed(network, device)
        average = copy.deepcopy(network).requires_grad_(False) if train.ema_decay else None
        return cls(network, average, build_optimizer(network, train))

    @property
    def evaluated(self) -> Network:
        """The network that is validated and kept: the moving average if there is one."""
        return self.average or self.network

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state, each under a flat name."""
        flat = {"val_dice": torch.tensor(self.val_dice, dtype=torch.float64)}
        flat |= {f"network/{name}": value for name, value in self.network.state_dict().items()}
        if self.average is not None:
            flat |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if value is not None:
                    flat[f"optimizer/{index}/{name}"] = value
        return flat

    def load(self, tensors: dict[str, Tensor], epoch: int) -> None:
        """Restore the state from which ``tensors`` was taken, after the given epoch."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}, "val_dice": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        self.network.load_state_dict(parts["network"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, key = name.partition("/")
            layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
            state.setdefault(int(index), {})[key] = value.contiguous(memory_format=layout)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.val_dice = tensors["val_dice"].tolist()
        self.epoch = epoch


def fit(
    state: TrainingState,
    train: Photos,
    val: Photos,
    params: TrainParams,
    augmentation: AugmentParams,
    on_step: Callable[[int], None] = lambda photos: None,
) -> Iterator[EpochRecord]:
    """Train from ``state`` to the last epoch; the state is updated in place.

    Args:
        state: where to begin; after each yield it is that of the finished epoch.
        train: photos to train on.
        val: photos to validate on.
        params: how to train.
        augmentation: how the training photos are changed.
        on_step: called with the number of photos after each step.

    Yields:
        One record per epoch.

    Raises:
        NonFiniteLoss: a step's loss is NaN or infinite.
    """
    # Batch norm needs at least two photos in a batch.
    steps_per_epoch = max(1, min(-(-len(train) // params.batch_size), len(train) // 2))
    while state.epoch < params.epochs:
        started = time.monotonic()
        epoch = state.epoch + 1
        size_px = training_size(params, epoch, train.images.shape[1], state.network.size_step)
        draws = draw(params.seed, epoch, len(train)).to(train.images.device)
        losses, counts = [], []
        state.network.train()
        with torch.random.fork_rng():  # dropout uses the global random state: it is seeded by the epoch
            torch.manual_seed(params.seed + epoch)
            for batch, rows in enumerate(_batches(params.seed, epoch, len(train), steps_per_epoch)):
                step = state.epoch * steps_per_epoch + batch
                rate = learning_rate(params, step, params.epochs * steps_per_epoch, state.val_dice)
                photos, masks = _batch(train, rows, draws, augmentation, size_px)
                loss, logits = train_step(state.network, state.optimizer, photos, masks, params, rate)
                if state.average is not None:
                    update_average(state.average, state.network, params.ema_decay, step)
                losses.append(loss * len(rows))
                counts.append(_counts(logits, masks))
                on_step(len(rows))
        train_loss = _pooled(losses, len(train), epoch)
        trained_s = time.monotonic() - started
        val_loss, val_dice = validate(state.evaluated, val, params)
        whole, tight = (mean(dice) for dice in val_dice.T)
        state.epoch = epoch
        state.val_dice.append((whole + tight) / 2)
        yield EpochRecord(
            epoch=epoch,
            size_px=size_px,
            train_loss=train_loss,
            val_loss=val_loss,
            train_dice=mean(_dice(counts)),
            val_dice=state.val_dice[-1],
            val_dice_whole=whole,
            val_dice_tight=tight,
            learning_rate=rate,
            images_per_s=len(train) / trained_s,
            elapsed_s=time.monotonic() - started,
        )


def training_size(params: TrainParams, epoch: int, image_size: int, size_step: int) -> int:
    """Return the side of an epoch's training photos, in pixels: it grows evenly up to ``image_size``.

    Small photos take a fraction of the time, and coarse shapes are learnt from them as well.

    Source: progressive resizing, as in Tan and Le 2021 (arXiv:2104.00298).
    """
    grown = (epoch - 1) / (params.epochs * params.growth_fraction) if params.growth_fraction else 1.0
    share = min(1.0, params.start_size + (1 - params.start_size) * grown)
    return min(image_size, max(size_step, round(share * image_size / size_step) * size_step))


def train_step(
    network: nn.Module,
    optimizer: Optimizer,
    photos: Tensor,
    masks: Tensor,
    params: TrainParams,
    rate: float,
) -> tuple[Tensor, Tensor]:
    """Run the forward pass, the backward pass, and one step of the optimizer.

    Returns:
        The loss, a 0-d tensor, and the logits, (N, 2, S, S) float32; both without a graph.
    """
    with torch.autocast(photos.device.type, torch.bfloat16, enabled=params.precision == "bf16"):
        logits = network(photos.contiguous(memory_format=torch.channels_last))
    logits = logits.float()
    loss = LOSSES[params.loss](logits, masks)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    if params.gradient_clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), params.gradient_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return loss.detach(), logits.detach()


@torch.inference_mode()
def validate(network: nn.Module, photos: Photos, params: TrainParams) -> tuple[float, NDArray[np.float64]]:
    """Return the mean loss over N photos, and the Dice of each at probability 0.5, (N, 2), as OUTPUTS.

    Nothing is augmented.
    """
    network.eval()
    losses, counts = [], []
    for start in range(0, len(photos), _VALIDATION_BATCH):
        some = slice(start, start + _VALIDATION_BATCH)
        images = photos.images[some]
        masks = masks_of_outputs(photos.trimaps[some])
        with torch.autocast(images.device.type, torch.bfloat16, enabled=params.precision == "bf16"):
            logits = network(to_input(images))
        logits = logits.float()
        losses.append(LOSSES[params.loss](logits, masks) * len(images))
        counts.append(_counts(logits, masks))
    return float(torch.stack(losses).sum()) / len(photos), _dice(counts)


@torch.inference_mode()
def predict_masks(network: nn.Module, images: Tensor) -> NDArray[np.bool_]:
    """Return the masks at probability 0.5: (N, S, S, 3) uint8 in, (N, 2, S, S) bool out, as OUTPUTS."""
    network.eval()
    masks: NDArray[np.bool_] = (network(to_input(images)) > 0).cpu().numpy()
    return masks


def _batches(seed: int, epoch: int, n: int, steps: int) -> list[Tensor]:
    """Shuffle n rows, and divide them into batches whose sizes differ by at most one.

    A short last batch would give batch norm too few photos for its statistics.
    """
    order = np.random.default_rng((seed, epoch, _ORDER_STREAM)).permutation(n)
    return [torch.from_numpy(rows) for rows in np.array_split(order, steps)]


def _batch(
    photos: Photos, rows: Tensor, draws: Tensor, augmentation: AugmentParams, size_px: int
) -> tuple[Tensor, Tensor]:
    """Return the photos of these rows, augmented and normalized, and their masks."""
    images, trimaps = augment(photos.images[rows], photos.trimaps[rows], draws[rows], augmentation, size_px)
    return normalize(images), masks_of_outputs(trimaps)


def _pooled(losses: list[Tensor], n: int, epoch: int) -> float:
    values = torch.stack(losses)
    broken = ~torch.isfinite(values)
    if broken.any():
        raise NonFiniteLoss(
            f"the loss of epoch {epoch}, step {int(broken.nonzero()[0]) + 1} of {len(losses)} is "
            f"{float(values[broken][0])}; try a lower train.learning_rate, or train.gradient_clip"
        )
    return float(values.sum()) / n


def _counts(logits: Tensor, masks: Tensor) -> PixelCounts:
    """Compare each output of each photo with its mask."""
    return count_pixels((logits > 0).flatten(0, 1), masks.flatten(0, 1))


def _dice(counts: list[PixelCounts]) -> NDArray[np.float64]:
    """Return the Dice of each photo's outputs, (N, 2)."""
    dice: NDArray[np.float64] = (
        torch.cat([count.dice() for count in counts]).view(-1, len(OUTPUTS)).cpu().numpy()
    )
    return dice
