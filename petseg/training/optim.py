"""Optimizers, schedules and the moving average of the weights."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from petseg.params import TrainParams
from petseg.training.muon import Muon

MOMENTUM = 0.9
_START_FACTOR = 1 / 25  # of the peak rate, as in torch's OneCycleLR

# Fused: one pass over the memory of each tensor, which takes half the time for 24 million weights.
OPTIMIZERS: dict[str, Callable[[list[dict[str, object]], float], Optimizer]] = {
    "muon": lambda groups, rate: Muon(groups, rate, MOMENTUM),
    "sgd": lambda groups, rate: SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, fused=True),
    "adamw": lambda groups, rate: AdamW(groups, lr=rate, fused=True),
    "adam": lambda groups, rate: Adam(groups, lr=rate, fused=True),
    "rmsprop": lambda groups, rate: RMSprop(groups, lr=rate, momentum=MOMENTUM),
}


def build_optimizer(network: nn.Module, params: TrainParams) -> Optimizer:
    """Build the optimizer; weight decay does not apply to biases and batch norm."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": params.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return OPTIMIZERS[params.optimizer](groups, params.learning_rate)


def _cosine_to_zero(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


def constant(progress: float, warmup: float) -> float:
    """Linear warm-up, then the peak."""
    return min(1.0, progress / warmup) if warmup else 1.0


def cosine(progress: float, warmup: float) -> float:
    """Linear warm-up, then half a cosine down to zero.

    Source: Loshchilov and Hutter 2016 (arXiv:1608.03983), without restarts.
    """
    if progress < warmup:
        return progress / warmup
    return _cosine_to_zero((progress - warmup) / (1 - warmup))


def onecycle(progress: float, warmup: float) -> float:
    """Half a cosine up from 1/25 of the peak, half a cosine down to zero.

    Source: Smith and Topin 2017 (arXiv:1708.07120), as torch's OneCycleLR anneals.
    """
    if progress < warmup:
        return 1 - (1 - _START_FACTOR) * _cosine_to_zero(progress / warmup)
    return _cosine_to_zero((progress - warmup) / (1 - warmup))


# Each maps (share of the steps that are done, share of the warm-up) to a factor of the peak rate.
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "onecycle": onecycle,
    "plateau": constant,  # lowered after each plateau
}


def learning_rate(params: TrainParams, step: int, steps: int, val_dice: Sequence[float] = ()) -> float:
    """Return the learning rate of a step.

    Args:
        params: how to train.
        step: number of the step, counted from 0.
        steps: number of steps in the whole training.
        val_dice: validation Dice of the finished epochs; only the plateau schedule uses it.
    """
    factor = SCHEDULES[params.schedule]((step + 1) / (steps + 1), params.warmup_fraction)
    if params.schedule == "plateau":
        factor *= params.plateau_factor ** plateaus(val_dice, params.plateau_patience)
    return params.learning_rate * factor


def plateaus(values: Sequence[float], patience: int) -> int:
    """Count how often more than ``patience`` values in a row were no better than the best before them.

    After each plateau, counting begins again. NaN is never better.

    Source: torch's ReduceLROnPlateau, for a value that should rise, with threshold 0.
    """
    best, waited, count = -math.inf, 0, 0
    for value in values:
        if value > best:
            best, waited = value, 0
        else:
            waited += 1
        if waited > patience:
            waited, count = 0, count + 1
    return count


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights and batch norm statistics towards the network's.

    In the first steps the decay is at most (1 + step) / (10 + step), so that the random weights of
    the beginning are soon forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averaged: list[Tensor] = []
    current: list[Tensor] = []
    for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if old.is_floating_point():
            averaged.append(old)
            current.append(new)
        else:
            old.copy_(new)
    torch._foreach_lerp_(averaged, current, 1 - decay)
