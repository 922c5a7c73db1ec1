"""Generate limits.md: the largest files and requests that are accepted, and the messages that refuse more."""

from petseg.core import yamlfiles
from petseg.data import archives, images, own_lists
from petseg.models.pretrained import MAX_WEIGHTS_BYTES
from petseg.predict import cutting
from petseg.predict.demo import app as demo
from petseg.store import adopt
from petseg.tracking import serving

_BEGINNING = """\
# Limits

The largest files and requests that are accepted, and the messages that refuse larger ones. This page is
generated from the constants in the code (`make docs`); [troubleshooting](troubleshooting.md) says what to do.

A file must be a regular file, or a link to one. A folder, a device, a pipe, a socket and the files of `/proc`
and `/sys` are refused with `is no regular file`, before they are opened. `predict` names a bad photo and
predicts the others; the exit code is then 3.

| what | limit | message |
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
        ("a photo's file, for `predict`", _bytes(cutting.MAX_FILE_BYTES), "`has N bytes, more than M`"),
        (
            "a photo's or mask's file, in your own data and in archives",
            _bytes(archives.MAX_MEMBER_BYTES),
            "likewise",
        ),
        ("a photo's pixels", f"{most / 1e6:.0f} million", f"`has more than {most / 1e6:.0f} megapixels`"),
        ("pixels of formats whose decoding takes more memory", f"{by_kind} million", header),
        ("pixels of a progressive JPEG", "30 to 42 million, depending on its chroma subsampling", header),
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
        ("a colour profile", _bytes(images.MAX_PROFILE_BYTES), "none: a larger one is dropped"),
        (
            "memory for decoding and cutting out all photos at once",
            _bytes(images.MAX_DECODING_BYTES),
            "none: other photos wait",
        ),
        ("a list or table of your own data", _bytes(own_lists.MAX_LIST_BYTES), "`has N bytes, more than M`"),
        (
            "an archive's expansion",
            f"{archives.MAX_EXPANSION} times its size",
            "`expands to more than N bytes`",
        ),
        ("a YAML file", _bytes(yamlfiles.MAX_BYTES), "`has N bytes, more than M`"),
        (
            "nested sections and lists of a YAML file",
            str(yamlfiles.MAX_DEPTH),
            f"`has more than {yamlfiles.MAX_DEPTH} levels of sections and lists`",
        ),
        (
            "values of a YAML file, including those that aliases repeat",
            f"{yamlfiles.MAX_VALUES:,}",
            f"`has more than {yamlfiles.MAX_VALUES:,} values, with those that its aliases repeat`",
        ),
        ("a whole number in the params", "less than 2147483648", "`KEY: N must be less than 2147483648`"),
        (
            "weights of any origin, and their tensors",
            _bytes(MAX_WEIGHTS_BYTES),
            "`can't be read as weights: ...`; `adopt` keeps the file anyway",
        ),
        ("a file that is adopted", _bytes(adopt.MAX_BYTES), "`has N bytes, more than M`"),
        ("a photo's file, in the demo", _bytes(demo.MAX_BYTES), f"413, `{demo.LIMITS.too_large.line}`"),
        (
            "photos at once, in the demo",
            f"{demo.MAX_REQUESTS}; {demo.PER_MINUTE} a minute",
            f"503, `{demo.LIMITS.busy.line}`; 429",
        ),
        ("a request to a served model", _bytes(serving.MAX_BYTES), "413, `more than 32 MB`"),
        (
            "photos of a request to a served model",
            f"{serving.MAX_PHOTOS}, with {most / 1e6:.0f} million pixels in all",
            "`N photos; at most 64 at once`",
        ),
        ("requests at once, to a served model", str(serving.MAX_REQUESTS), "503, `busy; ask again`"),
    ]


def _bytes(count: int) -> str:
    return f"{count:,} bytes"
