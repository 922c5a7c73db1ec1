"""Muon: SGD with momentum in which the steps of convolution weights are made orthogonal.

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
STEPS = 5  # iterations; singular values then lie between 0.7 and 1.2
BLOCK_ROWS = 128  # larger matrices are made orthogonal in blocks of this many rows, which costs less
_SMALL = 1e-14  # avoids a division by zero for a gradient of zeros


class Muon(Optimizer):
    """SGD with Nesterov's momentum; a step of a matrix is made orthogonal, a step of a vector stays as it is.

    A convolution weight (out, in, h, w) counts as a matrix with ``out`` rows.

    Args:
        groups: groups of parameters with a ``weight_decay``: the share of the rate by which weights shrink.
        lr: the learning rate.
        momentum: the share of the last step that is kept.
        steps: number of iterations that make a matrix orthogonal.
        block_rows: matrices with more rows are made orthogonal in blocks of this many.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        steps: int = STEPS,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self._steps, self._block_rows = steps, block_rows

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is taken
        """Update each parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            momenta = [self._momentum_of(p) for p in parameters]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            moves = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            _make_orthogonal([move for move in moves if move.ndim > 1], self._steps, self._block_rows)
            torch._foreach_add_(parameters, moves, alpha=-group["lr"])

    def _momentum_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"]
        return momentum


def orthogonal(matrices: Tensor, steps: int = STEPS) -> Tensor:
    """Return approximately the nearest orthogonal matrices: all singular values are brought near 1.

    Args:
        matrices: (N, rows, columns) float.
        steps: number of Newton-Schulz iterations.
    """
    wide = _wide(matrices)
    made = whitening(wide @ wide.mT, steps) @ wide
    return made if wide is matrices else made.mT


def whitening(grams: Tensor, steps: int = STEPS) -> Tensor:
    """Return the factors that make matrices X orthogonal, from their Gram matrices X X^T.

    Each step of the iteration multiplies X by a polynomial of its Gram matrix. The product of the polynomials
    is returned, so the wide matrices are multiplied twice in all, and not twice in each step.

    Args:
        grams: (N, rows, rows) float.
        steps: number of Newton-Schulz iterations.
    """
    a, b, c = _COEFFICIENTS
    squared_norm = grams.diagonal(dim1=1, dim2=2).sum(1).clamp(min=_SMALL)[:, None, None]
    grams = grams / squared_norm
    product = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device) / squared_norm.sqrt()
    for _ in range(steps):
        factor = torch.baddbmm(grams, grams, grams, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product
        grams = factor @ grams @ factor
    return product


def _wide(matrices: Tensor) -> Tensor:
    """Return matrices, (N, rows, columns), transposed if they have more rows than columns."""
    return matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices


def _make_orthogonal(moves: list[Tensor], steps: int, block_rows: int) -> None:
    """Make moves of weights, (out, in, h, w), orthogonal in place; those with equally many rows at once."""
    blocks = [_in_blocks(move, block_rows) for move in moves]
    grams: dict[int, list[Tensor]] = defaultdict(list)
    for wide in map(_wide, blocks):
        grams[wide.shape[1]].append(wide @ wide.mT)
    products = {
        rows: iter(torch.split(whitening(torch.cat(alike), steps), [len(each) for each in alike]))
        for rows, alike in grams.items()
    }
    for move, block in zip(moves, blocks, strict=True):
        wide = _wide(block)
        made = next(products[wide.shape[1]]) @ wide
        rows, columns = len(move), move[0].numel()
        inner = move.movedim(1, -1)
        inner.copy_((made if wide is block else made.mT).reshape(inner.shape))
        move.mul_(max(1.0, rows / columns) ** 0.5)


def _in_blocks(move: Tensor, block_rows: int) -> Tensor:
    """Return a weight's move as matrices, (blocks, rows, columns); a view if it is channels_last."""
    blocks = len(move) // block_rows if len(move) % block_rows == 0 else 1
    return move.movedim(1, -1).reshape(blocks, len(move) // blocks, -1)
