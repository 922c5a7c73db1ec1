import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as oracle

from petseg.params import AugmentParams, Params
from petseg.training.augment import AUGMENTATIONS, augment, draw

NAMES = tuple(AugmentParams.model_fields)
OFF = AugmentParams.model_validate(dict.fromkeys(NAMES, 0.0))


def only(**strengths: float) -> AugmentParams:
    return OFF.model_copy(update=strengths)


def batch(n: int = 4, size: int = 32) -> tuple[Tensor, Tensor]:
    """Smooth photos whose colours determine the trimap: 1 where red is high, else 2."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand((n, 3, 6, 6), generator=random)
    photos = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    images = (photos * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return images, torch.where(images[..., 0] > 127, 1, 2).to(torch.uint8)


def at(value: float, n: int = 4) -> Tensor:
    return torch.full((n, AUGMENTATIONS), value)


def test_without_augmentation_nothing_changes() -> None:
    images, trimaps = batch()
    photos, labels = augment(images, trimaps, draw(0, 1, 4), OFF, images.shape[1])
    assert torch.equal(photos, images.permute(0, 3, 1, 2) / 255)
    assert torch.equal(labels, trimaps)


def test_the_mirror_image_is_exact() -> None:
    images, trimaps = batch()
    photos, labels = augment(images, trimaps, at(0.0), only(flip=0.5), images.shape[1])
    torch.testing.assert_close(photos, images.flip(2).permute(0, 3, 1, 2) / 255)
    assert torch.equal(labels.to(torch.uint8), trimaps.flip(2))
    kept, _ = augment(images, trimaps, at(0.9), only(flip=0.5), images.shape[1])
    torch.testing.assert_close(kept, images.permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.7), (0.5, 1.0), (0.9999, 1.3)])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_change_as_in_torchvision(name: str, chance: float, factor: float) -> None:
    images, trimaps = batch()
    photos, labels = augment(images, trimaps, at(chance), only(**{name: 0.3}), images.shape[1])
    adjust = getattr(oracle, f"adjust_{name}")
    expected = adjust(images.permute(0, 3, 1, 2) / 255, factor)
    torch.testing.assert_close(photos, expected, atol=2e-3, rtol=0)
    assert torch.equal(labels, trimaps)


@pytest.mark.parametrize(("chance", "angle"), [(0.0, -20), (0.9999, 20)])
def test_rotation_is_as_in_torchvision(chance: float, angle: float) -> None:
    images, trimaps = batch()
    photos, _ = augment(images, trimaps, at(chance), only(rotate_deg=20), images.shape[1])
    bilinear = oracle.InterpolationMode.BILINEAR
    expected = oracle.rotate(images.permute(0, 3, 1, 2) / 255, angle, bilinear)
    middle = (..., slice(8, 24), slice(8, 24))  # outside it, torchvision fills and petseg mirrors
    torch.testing.assert_close(photos[middle], expected[middle], atol=5e-3, rtol=0)


@pytest.mark.parametrize(("chance", "width", "height"), [(0.0, 16, 36), (0.5, 24, 24), (0.9999, 36, 16)])
def test_a_stretch_keeps_the_area_and_changes_the_shape(chance: float, width: int, height: int) -> None:
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    images[:, 20:44, 20:44] = 255
    trimaps = torch.where(images[..., 0] > 0, 1, 2).to(torch.uint8)
    _, stretched = augment(images, trimaps, at(chance, 1), only(aspect=1.25), images.shape[1])
    pet = stretched[0] == 1
    assert int(pet.any(0).sum()) == pytest.approx(width, abs=1)
    assert int(pet.any(1).sum()) == pytest.approx(height, abs=1)


def test_zoom_and_shift_have_their_size() -> None:
    images = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    images[:, 24:40, 24:40] = 255
    trimaps = torch.where(images[..., 0] > 0, 1, 2).to(torch.uint8)
    _, larger = augment(images, trimaps, at(0.9999, 1), only(scale=0.5), images.shape[1])
    assert int((larger == 1).sum()) == pytest.approx(16 * 16 * 1.5**2, rel=0.1)
    _, shifted = augment(images, trimaps, at(0.9999, 1), only(translate=0.25), images.shape[1])
    rows, columns = (shifted[0] == 1).nonzero().double().mean(0).tolist()
    assert (rows, columns) == pytest.approx((31.5 - 16, 31.5 - 16), abs=1)


def test_the_trimap_moves_along_and_stays_a_trimap(params: Params) -> None:
    images, trimaps = batch(16)
    colours = dict.fromkeys(("brightness", "contrast", "saturation"), 0.0)
    geometry = params.augment.model_copy(update=colours)
    photos, labels = augment(images, trimaps, draw(0, 1, 16), geometry, images.shape[1])
    assert set(labels.flatten().tolist()) <= {1, 2}
    expected_by_colour = torch.where(photos[:, 0] > 0.5, 1, 2)
    clear = (photos[:, 0] - 0.5).abs() > 0.15  # away from the edge, where sampling may differ
    assert torch.equal(labels[clear], expected_by_colour[clear].to(labels.dtype))


def test_a_photo_changes_independently_of_the_rest_of_the_batch(params: Params) -> None:
    images, trimaps = batch(8)
    draws = draw(3, 2, 8)
    alone = params.augment.model_copy(update={"paste": 0.0})
    together, _ = augment(images, trimaps, draws, alone, images.shape[1])
    some = torch.tensor([5, 1])
    apart, _ = augment(images[some], trimaps[some], draws[some], alone, images.shape[1])
    torch.testing.assert_close(apart, together[some], atol=1e-6, rtol=0)


def test_random_draws_depend_only_on_seed_epoch_and_photo() -> None:
    assert torch.equal(draw(1, 2, 10), draw(1, 2, 10))
    assert torch.equal(draw(1, 2, 10), draw(1, 2, 20)[:10])
    assert not torch.equal(draw(1, 2, 10), draw(1, 3, 10))
    assert not torch.equal(draw(1, 2, 10), draw(2, 2, 10))
    many = draw(0, 0, 20_000).numpy()
    assert np.abs(many.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(many.T) - np.eye(AUGMENTATIONS)).max() < 0.03


def test_pixel_values_stay_between_zero_and_one(params: Params) -> None:
    images, trimaps = batch(32)
    photos, _ = augment(images, trimaps, draw(0, 5, 32), params.augment, images.shape[1])
    assert photos.min() >= 0
    assert photos.max() <= 1
    assert photos.isfinite().all()


@pytest.mark.parametrize("size_px", [16, 48])
def test_another_size_gives_the_same_photo(size_px: int) -> None:
    images, trimaps = batch()
    photos, labels = augment(images, trimaps, draw(0, 1, 4), OFF, size_px)
    expected = oracle.resize(images.permute(0, 3, 1, 2) / 255, [size_px, size_px], antialias=True)
    assert photos.shape == (4, 3, size_px, size_px)
    assert labels.shape == (4, size_px, size_px)
    torch.testing.assert_close(photos, expected, atol=0.06, rtol=0)
    clear = (expected[:, 0] - 0.5).abs() > 0.15  # away from the edge, where sampling may differ
    expected_by_colour = torch.where(expected[:, 0] > 0.5, 1, 2)
    assert torch.equal(labels[clear], expected_by_colour[clear].to(labels.dtype))


def test_the_pet_of_the_next_photo_is_pasted_with_its_border() -> None:
    images = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    images[1] = 255
    trimaps = torch.full((2, 4, 4), 2, dtype=torch.uint8)
    trimaps[0, 3] = 1  # black photo: pet in the last row
    trimaps[1, 0], trimaps[1, 1] = 1, 3  # white photo: pet in the first row, its border below
    chances = at(0.9, 2)
    chances[0, -1] = 0.1
    photos, labels = augment(images, trimaps, chances, only(paste=0.5), 4)
    assert photos[0, 0, :, 0].tolist() == [1, 1, 0, 0]
    assert labels[0, :, 0].tolist() == [1, 3, 2, 1]
    assert photos[1].min() == 1
    assert torch.equal(labels[1], trimaps[1])
