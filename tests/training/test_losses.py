import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from petseg.errors import ShapeMismatch
from petseg.training.losses import LOSSES, bce_dice_loss, bce_loss, focal_loss, soft_dice_loss, tversky_loss


def maps(*photos: list[float]) -> Tensor:
    """Maps of 2x2 pixels: (N, 1, 2, 2)."""
    return torch.tensor(photos, dtype=torch.float32).view(-1, 1, 2, 2)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_bce_of_four_pixels() -> None:
    logits = maps([logit(0.9), logit(0.2), 0.0, logit(0.7)])
    expected = -(math.log(0.9) + math.log(0.8) + math.log(0.5) + math.log(0.7)) / 4
    assert bce_loss(logits, maps([1, 0, 0, 1])).item() == pytest.approx(expected, rel=1e-5)


def test_dice_of_four_pixels() -> None:
    logits = maps([logit(0.9), logit(0.2), logit(0.5), logit(0.6)])
    expected = 1 - (2 * (0.9 + 0.6) + 1) / (2.2 + 2 + 1)
    assert soft_dice_loss(logits, maps([1, 0, 0, 1])).item() == pytest.approx(expected, rel=1e-5)


def test_dice_is_averaged_over_photos_not_pooled() -> None:
    one, other = maps([9.0, -9.0, -9.0, -9.0]), maps([9.0] * 4)
    masks = maps([1, 0, 0, 0]), maps([0] * 4)
    apart = [soft_dice_loss(logits, mask) for logits, mask in zip((one, other), masks, strict=True)]
    together = soft_dice_loss(torch.cat([one, other]), torch.cat(masks))
    torch.testing.assert_close(together, (apart[0] + apart[1]) / 2)


def test_focal_of_four_pixels() -> None:
    logits = maps([logit(0.9), logit(0.2), 0.0, logit(0.7)])
    terms = ((0.1, 0.9), (0.2, 0.8), (0.5, 0.5), (0.3, 0.7))  # the error, and the probability of the truth
    expected = -sum(wrong**2 * math.log(p) for wrong, p in terms) / 4
    assert focal_loss(logits, maps([1, 0, 0, 1])).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_equals_that_of_torchvision() -> None:
    random = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(2, 1, 8, 8, generator=random), torch.ones(2, 1, 8, 8)
    expected = sigmoid_focal_loss(logits, mask, alpha=-1, gamma=2, reduction="mean")
    torch.testing.assert_close(focal_loss(logits, mask), expected)


def test_tversky_of_four_pixels() -> None:
    logits = maps([logit(0.9), logit(0.2), logit(0.5), logit(0.6)])
    both, false, missed = 0.9 + 0.6, 0.2 + 0.5, 0.1 + 0.4
    expected = 1 - (both + 1) / (both + 0.3 * false + 0.7 * missed + 1)
    assert tversky_loss(logits, maps([1, 0, 0, 1])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_two_outputs_are_averaged(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    logits, masks = (
        torch.randn(3, 2, 4, 4, generator=random),
        torch.rand(3, 2, 4, 4, generator=random).round(),
    )
    apart = [LOSSES[name](logits[:, place, None], masks[:, place, None]) for place in range(2)]
    torch.testing.assert_close(LOSSES[name](logits, masks), (apart[0] + apart[1]) / 2)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_empty_and_full_masks_have_finite_gradients(name: str, value: float) -> None:
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((1, 1, 2, 2), value))
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_prediction_has_a_lower_loss(name: str) -> None:
    mask = maps([1, 1, 0, 0])
    worse, better, best = (LOSSES[name](maps([s, s, -s, -s]), mask).item() for s in (-1.0, 1.0, 8.0))
    assert worse > better > best >= 0


def test_bce_dice_is_the_sum() -> None:
    logits, mask = torch.randn(2, 1, 4, 4), torch.randint(0, 2, (2, 1, 4, 4)).float()
    parts = bce_loss(logits, mask) + soft_dice_loss(logits, mask)
    assert torch.equal(bce_dice_loss(logits, mask), parts)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(ShapeMismatch, match=r"logits and masks: shapes \(2, 1, 4, 4\) and \(2, 4, 4\)"):
        LOSSES[name](torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))
