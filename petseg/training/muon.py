"""Muon: SGD with momentum, whose steps of the convolutions' weights are made orthogonal.

Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon): the iteration with its coefficients, Nesterov's momentum, and the scale
of tall matrices. Liu et al. 2025 (arXiv:2502.16982): decoupled weight decay.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1
_STEPS = 5  # of it; singular values then lie between 0.7 and 1.2
_BLOCK_ROWS = 128  # larger matrices are made orthogonal in blocks of so many rows, which costs less
_SMALL = 1e-7  # against division by the norm of a gradient of zeros


class Muon(Optimizer):
    """SGD with Nesterov's momentum; a step of a matrix is made orthogonal, a step of a vector stays as it is.

    A convolution's weight (out, in, h, w) is a matrix of out rows.

    Args:
        groups: of parameters, each with its ``weight_decay``: the share of the rate by which weights shrink.
        lr: the rate.
        momentum: the share of the last step that goes on.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is taken
        """Move each parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            momenta = [self._momentum_of(p) for p in parameters]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            steps = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            _make_orthogonal([step for step in steps if step.ndim > 1])
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonal(matrices: Tensor, steps: int = _STEPS) -> Tensor:
    """Return the nearest orthogonal matrices, about: all singular values are brought near 1.

    Args:
        matrices: (N, rows, columns) float.
        steps: of the Newton-Schulz iteration.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + _SMALL)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _make_orthogonal(steps: list[Tensor]) -> None:
    """Replace steps of weights, (out, in, h, w), by orthogonal ones; those of one shape at once."""
    alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for step in steps:
        matrix = step.permute(0, *range(2, step.ndim), 1).flatten(1)  # of channels_last a view
        alike[tuple(matrix.shape)].append(step)
    for (rows, columns), members in alike.items():
        stacked = torch.stack([m.permute(0, *range(2, m.ndim), 1).flatten(1) for m in members])
        blocks = rows // _BLOCK_ROWS if rows % _BLOCK_ROWS == 0 else 1
        made = orthogonal(stacked.view(-1, rows // blocks, columns)).view_as(stacked)
        made *= max(1.0, rows / columns) ** 0.5
        for member, new in zip(members, made, strict=True):
            inner = [member.shape[0], *member.shape[2:], member.shape[1]]
            member.copy_(new.view(inner).movedim(-1, 1))
