"""Photos of every kind, and broken ones: faults 31 to 33."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from torchvision.transforms import functional as oracle

from petseg.data.images import decode_pair, decode_photo, decode_trimap, resize_photo
from petseg.errors import BadImage
from tests.support import PEAK_KB, ROOT
from tests.support.pets import HEIC, encoded, picture, trimap

PHOTO = picture(0)


def as_rgb(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.asarray(image.convert("RGB"), np.int16)


def mean_difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(as_rgb(one) - as_rgb(other)).mean())


@pytest.mark.parametrize(
    ("data", "expected", "tolerance"),
    [
        (encoded(PHOTO, "PNG"), PHOTO, 0),
        (encoded(PHOTO, "JPEG", quality=95), PHOTO, 3),
        (encoded(PHOTO.convert("L"), "JPEG", quality=95), PHOTO.convert("L"), 3),
        (encoded(PHOTO.convert("CMYK"), "JPEG", quality=95), PHOTO, 4),
        (encoded(PHOTO.convert("P"), "PNG"), PHOTO.convert("P"), 0),
        (encoded(PHOTO, "GIF"), PHOTO, 12),
        (encoded(PHOTO.convert("RGBA"), "PNG"), PHOTO, 0),
        (encoded(PHOTO.convert("LA"), "PNG"), PHOTO.convert("L"), 0),
        (encoded(PHOTO.convert("1"), "PNG"), PHOTO.convert("1"), 0),
        (encoded(PHOTO, "WEBP", lossless=True), PHOTO, 0),
        (encoded(PHOTO, "BMP"), PHOTO, 0),
    ],
    ids=["png", "jpeg", "grey", "cmyk", "palette", "gif", "rgba", "grey-alpha", "1-bit", "webp", "bmp"],
)
def test_a_photo_of_any_format_becomes_rgb(data: bytes, expected: Image.Image, tolerance: float) -> None:
    photo = decode_photo(data)
    assert photo.mode == "RGB"
    assert photo.size == expected.size
    assert mean_difference(photo, expected) <= tolerance


def test_a_phone_s_heic_is_read_and_turned() -> None:
    photo = decode_photo((HEIC).read_bytes())  # 64x48, with a red bar at the left
    assert (photo.mode, photo.size) == ("RGB", (48, 64))
    red, blue = photo.getpixel((40, 5)), photo.getpixel((40, 60))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    with pytest.raises(BadImage, match=r"can't be decoded|known format"):
        decode_photo((HEIC).read_bytes()[:400])


def test_alpha_is_dropped_and_keeps_the_colours() -> None:
    glass = PHOTO.copy()
    glass.putalpha(7)
    assert mean_difference(decode_photo(encoded(glass, "PNG")), PHOTO) == 0


def test_a_transparent_palette_gives_no_warning() -> None:
    data = encoded(PHOTO.convert("P"), "PNG", transparency=b"\x00\x80")
    assert decode_photo(data).mode == "RGB"


def test_16_bit_grey_keeps_its_shades() -> None:
    grey = np.asarray(PHOTO.convert("L"), np.uint16)
    photo = decode_photo(encoded(Image.fromarray(grey * 257), "PNG"))
    assert (np.asarray(photo)[..., 0] == grey).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotated_photo_comes_upright(orientation: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes each orientation
    stored = PHOTO if orientation == 1 else PHOTO.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = decode_photo(encoded(stored, "PNG", exif=exif))
    assert photo.size == PHOTO.size
    assert mean_difference(photo, PHOTO) == 0


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_unreadable_metadata_is_ignored(kind: str) -> None:
    data = encoded(PHOTO, kind, exif=b"Exif\0\0no TIFF at all", quality=95)
    assert mean_difference(decode_photo(data), PHOTO) < 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "file is empty"),
        (b"<html>not found</html>", "not a picture"),
        (encoded(PHOTO, "JPEG")[:-300], "can't be decoded: image file is truncated"),
        (encoded(PHOTO, "PNG")[:200], "can't be decoded"),
        (encoded(PHOTO, "JPEG")[:20], "not a picture|can't be decoded"),
        (encoded(PHOTO.convert("L").convert("F"), "TIFF"), "floating-point"),
        (encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "more than 16 bits"),
    ],
)
def test_a_broken_photo_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        decode_photo(data)


def test_any_bytes_give_a_photo_or_a_refusal() -> None:
    data, refused = encoded(PHOTO, "PNG"), 0
    for place in range(0, len(data), 7):
        broken = data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]
        try:
            assert decode_photo(broken).mode == "RGB"
        except BadImage:
            refused += 1
    assert refused > 0.9 * len(data) / 7


def giant_png(width: int, height: int) -> bytes:
    """Make a valid PNG of one colour, of a few hundred kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer, row = zlib.compressobj(9), bytes(1 + 3 * width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.whole
def test_200_megapixels_are_refused_in_little_memory() -> None:
    code = (
        "import sys; from petseg.data.images import decode_photo; from petseg.errors import BadImage\n"
        f"{PEAK_KB}\n"
        "try: decode_photo(sys.stdin.buffer.read())\n"
        "except BadImage as e: print(e, peak_kb(), sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=giant_png(20_000, 10_000),
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    reason, kilobytes = done.stdout.decode().split("|")
    assert reason == "has more than 52 megapixels"
    assert int(kilobytes) < 300_000


def header(kind: str, size: tuple[int, int], **options: object) -> bytes:
    """Make a small picture whose header claims this size."""
    small = encoded(Image.new("RGB", (24, 16)), kind, **options)
    if kind == "PNG":
        head = struct.pack(">II", *size) + small[24:29]
        return small[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + small[33:]
    place = small.index(b"\xff\xc2" if options else b"\xff\xc0") + 5
    return small[:place] + struct.pack(">HH", *size[::-1]) + small[place + 4 :]


def with_scans(count: int) -> bytes:
    data = encoded(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)
    place = data.rindex(b"\xff\xda")
    return data[:-2] + data[place:-2] * count + data[-2:]


def with_tiles(side: int) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in (65_000, 65_001):
        tags.tagtype[tag], tags[tag] = 4, side
    data = encoded(Image.new("L", (16, 16)), "TIFF", tiffinfo=tags)
    for tag, tile in ((65_000, 322), (65_001, 323)):
        assert struct.pack("<HHI", tag, 4, 1) in data
        data = data.replace(struct.pack("<HHI", tag, 4, 1), struct.pack("<HHI", tile, 4, 1))
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("PNG", (63_999_999, 1)), "is more than 20,000 pixels wide or high"),
        (header("PNG", (1, 20_001)), "is more than 20,000 pixels wide or high"),
        (header("PNG", (20_000, 2_601)), "has more than 52 megapixels"),
        (header("JPEG", (20_000, 2_601)), "has more than 52 megapixels"),
        (
            header("JPEG", (7_000, 7_000), progressive=True),
            "more than 42 megapixels, which a JPEG photo may have",
        ),
        (
            header("JPEG", (5_600, 5_600), progressive=True, subsampling=0),
            "more than 30 megapixels, which a JPEG photo may have",
        ),
        (with_scans(1_000), r"has 1\d\d\d scans, too many for its size"),
        (with_tiles(65_520), "has tiles of more than 52 megapixels"),
        (encoded(Image.new("L", (64, 64)), "ICO"), "not a picture of a known format"),
    ],
)
def test_a_costly_photo_is_refused_before_it_is_decoded(data: bytes, message: str) -> None:
    taken: list[int] = []
    with pytest.raises(BadImage, match=message):
        decode_photo(data, taken.append)
    assert taken == []


def test_the_memory_of_a_photo_is_announced_before_it_is_used() -> None:
    taken: list[int] = []
    decode_photo(io.BytesIO(encoded(PHOTO, "PNG")), taken.append)
    decode_photo(encoded(PHOTO, "JPEG", progressive=True, subsampling=0), taken.append)
    assert taken == [60 * 40 * 5, 60 * 40 * 10]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_photo_is_turned_in_bands_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, orientation: int, mode: str
) -> None:
    shades = np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257
    image = Image.fromarray(shades) if mode == "I;16" else PHOTO.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "PNG", exif=exif)
    at_once = decode_photo(data)
    monkeypatch.setattr("petseg.data.images._LARGE_PX", 0)
    monkeypatch.setattr("petseg.data.images._BAND_PX", 500)
    assert np.array_equal(np.asarray(decode_photo(data)), np.asarray(at_once))


def test_a_colour_profile_of_megabytes_is_left_out() -> None:
    kept = decode_photo(encoded(PHOTO, "PNG", icc_profile=b"x" * 1000))
    assert kept.info["icc_profile"] == b"x" * 1000
    assert "icc_profile" not in decode_photo(encoded(PHOTO, "TIFF", icc_profile=b"x" * 1_000_001)).info


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_a_text_that_expands_is_refused(kind: bytes) -> None:
    data = encoded(PHOTO, "PNG")
    body = b"name\0\0" + zlib.compress(bytes(50_000_000))
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    with pytest.raises(BadImage, match="can't be decoded: Decompressed data too large"):
        decode_photo(data[:33] + chunk + data[33:])


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        red, _, blue = decode_photo(data).getpixel((30, 20))  # type: ignore[misc]
        assert red > 200 > 50 > blue


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("L", (60, 40), 0), "trimap holds the value 0"),
        (Image.new("L", (60, 40), 255), "trimap holds the value 255"),
        (Image.new("RGB", (60, 40)), "trimap has mode RGB"),
        (Image.new("1", (60, 40)), "trimap has mode 1"),
    ],
)
def test_a_trimap_of_other_values_is_refused(image: Image.Image, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        decode_trimap(encoded(image, "PNG"))


def test_a_trimap_of_another_size_is_refused() -> None:
    with pytest.raises(BadImage, match="trimap is 61x40, its photo 60x40"):
        decode_pair(encoded(PHOTO, "PNG"), encoded(trimap((61, 40)), "PNG"), 32)


def test_a_pair_is_resized_to_the_square() -> None:
    image, labels, size = decode_pair(encoded(PHOTO, "PNG"), encoded(trimap(), "PNG"), 32)
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8
    assert (labels.shape, set(np.unique(labels))) == ((32, 32), {1, 2, 3})
    assert size == (60, 40)


@pytest.mark.parametrize("size", [16, 32, 50])
def test_photos_shrink_as_in_torchvision(size: int) -> None:
    ours = resize_photo(PHOTO, size).astype(int)
    tensor = torch.from_numpy(np.array(PHOTO)).permute(2, 0, 1)
    theirs = oracle.resize(tensor, [size, size], antialias=True).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_a_large_photo_shrinks_in_two_steps_to_nearly_the_same_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    # The sizes are below and above four times the side of the square.
    for size, most in (((510, 380), 0), ((4000, 3000), 6)):
        photo = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        at_once = np.asarray(photo.resize((128, 128), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(resize_photo(photo, 128) - at_once).max() <= most


def test_trimaps_shrink_by_the_nearest_pixel() -> None:
    labels = np.random.default_rng(0).integers(1, 4, (40, 60), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG")
    _, ours, _ = decode_pair(encoded(PHOTO, "PNG"), file.getvalue(), 20)
    tensor = torch.from_numpy(labels)[None, None].float()
    theirs = torch.nn.functional.interpolate(tensor, (20, 20), mode="nearest-exact")
    assert (ours == theirs[0, 0].numpy()).all()
