"""Makes limits.md: what is taken of anybody's files and requests, and which message refuses more."""

from petseg.core import yamlfiles
from petseg.data import archives, images, own_lists
from petseg.models.pretrained import MAX_WEIGHTS_BYTES
from petseg.predict import cutting
from petseg.predict.demo import app as demo
from petseg.store import adopt
from petseg.tracking import serving

_BEGINNING = """\
# Limits

How much of a file or a request is taken, and the words by which more is refused. The page is made of the
constants in the code (`make docs`); [troubleshooting](troubleshooting.md) says what to do.

Everywhere a file is a regular file, or a link to one: a folder, a device, a pipe, a socket and what `/proc`
and `/sys` show are refused with `is no regular file`, before they are opened. One bad photo is named and left
out, and the others are predicted; the exit code is then 3.

| what | how much | message |
|---|---|---|
"""


def limits_page() -> str:
    """Return limits.md."""
    return _BEGINNING + "".join(f"| {' | '.join(row)} |\n" for row in _rows())


def _rows() -> list[tuple[str, str, str]]:
    most = images.MAX_PIXELS
    by_kind = ", ".join(
        f"{kind} {images.most_pixels(size) / 1e6:.0f}" for kind, size in sorted(images.DECODING.items())
    )
    header = "`has more than N megapixels, which a KIND photo may have`"
    return [
        ("a photo's file, of `predict`", _bytes(cutting.MAX_FILE_BYTES), "`has N bytes, more than M`"),
        ("a photo's or mask's file, of own data and archives", _bytes(archives.MAX_MEMBER_BYTES), "likewise"),
        ("a photo's pixels", f"{most / 1e6:.0f} million", f"`has more than {most / 1e6:.0f} megapixels`"),
        ("of them, where decoding takes more memory", f"{by_kind} million", header),
        ("of a progressive JPEG", "30 to 42 million, by its sampling of colours", header),
        (
            "a photo's width and height",
            f"{images.MAX_SIDE:,} px each",
            "`is more than N pixels wide or high`",
        ),
        (
            "a JPEG's pixels times its scans",
            f"{images.MAX_SCANNED_PIXELS:,}",
            "`has N scans, too many for its size`",
        ),
        ("a TIFF's tile", f"{most / 1e6:.0f} million pixels", "`has tiles of more than N megapixels`"),
        ("a colour profile", _bytes(images.MAX_PROFILE_BYTES), "none: a larger one is not kept"),
        (
            "memory of all photos in work, while they are decoded and cut out",
            _bytes(images.MAX_DECODING_BYTES),
            "none: others wait",
        ),
        ("a list or table of own data", _bytes(own_lists.MAX_LIST_BYTES), "`has N bytes, more than M`"),
        (
            "an archive's expansion",
            f"{archives.MAX_EXPANSION} times its size",
            "`expands to more than N bytes`",
        ),
        ("a YAML file", _bytes(yamlfiles.MAX_BYTES), "`has N bytes, more than M`"),
        (
            "its levels of sections and lists",
            str(yamlfiles.MAX_DEPTH),
            f"`has more than {yamlfiles.MAX_DEPTH} levels of sections and lists`",
        ),
        (
            "its values, with those that aliases repeat",
            f"{yamlfiles.MAX_VALUES:,}",
            f"`has more than {yamlfiles.MAX_VALUES:,} values, with those that its aliases repeat`",
        ),
        ("a whole number of the params", "less than 2147483648", "`KEY: N must be less than 2147483648`"),
        (
            "weights of any origin, and their tensors",
            _bytes(MAX_WEIGHTS_BYTES),
            "`can't be read as weights: ...`; `adopt` keeps the file all the same",
        ),
        ("a file that is adopted", _bytes(adopt.MAX_BYTES), "`has N bytes, more than M`"),
        ("a photo's file, of the demo", _bytes(demo.MAX_BYTES), f"413, `{demo.LIMITS.too_large.line}`"),
        (
            "photos at once, of the demo",
            f"{demo.MAX_REQUESTS}; {demo.PER_MINUTE} a minute",
            f"503, `{demo.LIMITS.busy.line}`; 429",
        ),
        ("a request, of a served model", _bytes(serving.MAX_BYTES), "413, `more than 32 MB`"),
        (
            "its photos",
            f"{serving.MAX_PHOTOS}, of together {most / 1e6:.0f} million pixels",
            "`N photos; at most 64 at once`",
        ),
        ("requests at once, of a served model", str(serving.MAX_REQUESTS), "503, `busy; ask again`"),
    ]


def _bytes(count: int) -> str:
    return f"{count:,} bytes"
