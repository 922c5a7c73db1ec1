"""A PNG file of petseg is correct if other programs read it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from petseg.predict.png import write_png


@pytest.mark.parametrize("mode", ["L", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (33, 64), (50, 65), (130, 129)])
def test_pillow_reads_the_same_pixels(mode: str, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
    noise[: size[1] // 2] = 0  # runs, as in a mask
    picture = Image.fromarray(noise[:, :, 0] if mode == "L" else noise)
    file = io.BytesIO()
    write_png(file, picture)
    with Image.open(file) as found:
        found.load()
        assert (found.format, found.mode, found.size, found.info) == ("PNG", mode, size, {})
        assert np.array_equal(np.asarray(found), np.asarray(picture))


def test_the_colour_profile_is_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    write_png(file, Image.new("RGBA", (3, 2)), profile)
    with Image.open(file) as found:
        assert found.info["icc_profile"] == profile


def test_a_mask_takes_few_bytes() -> None:
    mask = np.zeros((375, 500), np.uint8)
    mask[100:300, 120:400] = 255
    file = io.BytesIO()
    write_png(file, Image.fromarray(mask))
    assert len(file.getvalue()) < mask.size / 100
