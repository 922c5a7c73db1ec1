"""Optimizers, schedules and the moving average of the weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from petseg.params import TrainParams

_MOMENTUM = 0.9
_START_FACTOR = 1 / 25  # of the peak, as in torch's OneCycleLR

OPTIMIZERS: dict[str, Callable[[list[dict[str, object]], float], Optimizer]] = {
    "adam": lambda groups, rate: Adam(groups, lr=rate),
    "adamw": lambda groups, rate: AdamW(groups, lr=rate),
    "sgd": lambda groups, rate: SGD(groups, lr=rate, momentum=_MOMENTUM, nesterov=True),
    "rmsprop": lambda groups, rate: RMSprop(groups, lr=rate, momentum=_MOMENTUM),
}


def build_optimizer(network: nn.Module, params: TrainParams) -> Optimizer:
    """Build the optimizer; biases and batch norm are not decayed."""
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


# From (share of the steps that are done, share that warms up) to a factor of the peak rate.
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "onecycle": onecycle,
}


def learning_rate(params: TrainParams, step: int, steps: int) -> float:
    """Return the rate of a step, counted from 0, out of ``steps`` in all."""
    factor = SCHEDULES[params.schedule]((step + 1) / (steps + 1), params.warmup_fraction)
    return params.learning_rate * factor


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights and batch norm statistics towards the network's.

    The decay grows with the first steps, (1 + step) / (10 + step) at most, so that the random
    weights of the beginning are soon forgotten.
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
