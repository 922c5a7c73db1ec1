import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from petseg.params import Params, TrainParams
from petseg.training.optim import OPTIMIZERS, SCHEDULES, build_optimizer, learning_rate, update_average


def settings(params: Params, **changes: object) -> TrainParams:
    return TrainParams.model_validate(params.train.model_dump() | changes)


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("constant", 0.5, [0.4, 0.8, 1, 1]),
        ("cosine", 0.0, [0.9045, 0.6545, 0.3455, 0.0955]),
        ("cosine", 0.5, [0.4, 0.8, 0.9045, 0.3455]),
    ],
)
def test_schedules_of_four_steps(params: Params, schedule: str, warmup: float, expected: list[float]) -> None:
    train = settings(params, schedule=schedule, warmup_fraction=warmup, learning_rate=2.0)
    rates = [learning_rate(train, step, 4) / 2 for step in range(4)]
    assert rates == pytest.approx(expected, abs=1e-3)


def test_onecycle_equals_that_of_torch(params: Params) -> None:
    steps = 400
    train = settings(params, schedule="onecycle", warmup_fraction=0.25, learning_rate=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.25, final_div_factor=1e9)
    for step in range(steps):
        assert learning_rate(train, step, steps) == pytest.approx(oracle.get_last_lr()[0], abs=1e-3)
        optimizer.step()
        oracle.step()


def test_no_step_has_a_learning_rate_of_zero(params: Params) -> None:
    for schedule in SCHEDULES:
        train = settings(params, schedule=schedule)
        assert all(learning_rate(train, step, 10) > 0 for step in range(10))


def test_the_plateau_schedule_equals_that_of_torch(params: Params) -> None:
    """The oracle is torch's scheduler for a value that should rise."""
    values = np.random.default_rng(0).normal(np.linspace(0.5, 0.6, 60), 0.02).tolist()
    values[10] = float("nan")
    train = settings(params, schedule="plateau", warmup_fraction=0.0, plateau_patience=3, plateau_factor=0.5)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=train.learning_rate)
    oracle = ReduceLROnPlateau(optimizer, "max", factor=0.5, patience=3, threshold=0.0, threshold_mode="abs")
    seen = set()
    for epoch, value in enumerate(values):
        rate = learning_rate(train, epoch, 1000, values[:epoch])
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        seen.add(rate)
        oracle.step(value)
    assert len(seen) > 4


def test_a_plateau_schedule_warms_up(params: Params) -> None:
    train = settings(params, schedule="plateau", warmup_fraction=0.5, plateau_patience=1)
    rates = [learning_rate(train, step, 4) / train.learning_rate for step in range(4)]
    assert rates == pytest.approx([0.4, 0.8, 1, 1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_lowers_the_loss(params: Params, name: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = build_optimizer(network, settings(params, optimizer=name, learning_rate=1e-2))
    inputs = torch.randn(20, 3)
    losses = []
    for _ in range(100):
        loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_biases_and_norms_are_not_decayed(params: Params) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decayed, spared = build_optimizer(network, settings(params, weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1]


def test_the_average_follows_the_weights() -> None:
    network = nn.BatchNorm2d(1)
    average = copy.deepcopy(network)
    with torch.no_grad():
        network.weight.fill_(3.0)
        # It tracks, so these are not None.
        network.running_mean.fill_(1.0)  # type: ignore[union-attr]
        network.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    update_average(average, network, decay=0.9, step=10_000)
    assert average.weight.item() == pytest.approx(0.9 * 1 + 0.1 * 3)
    assert average.running_mean.item() == pytest.approx(0.1)  # type: ignore[union-attr]
    assert average.num_batches_tracked.item() == 7  # type: ignore[union-attr]


def test_the_average_soon_forgets_the_initial_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = copy.deepcopy(network)
    nn.init.constant_(network.weight, 5.0)
    for step in range(100):
        update_average(average, network, decay=0.999, step=step)
    assert average.weight.item() == pytest.approx(5.0, abs=1e-3)
