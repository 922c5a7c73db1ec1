"""Cut-outs side by side: ``python -m benchmarks.cutouts BEFORE AFTER`` writes docs/figures/cutouts.jpg.

BEFORE and AFTER are runs of the store. Both cut out ten test photos, evenly spread over their list: the first
with the whole edge and without cleaning, as petseg did when networks had one output, and the second as
``petseg predict`` does.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.__main__ import ROOT
from benchmarks.predicting import predict
from petseg.data.arrays import PetArrays
from petseg.data.preprocess import photo_files

PICTURE = ROOT / "docs/figures/cutouts.jpg"
SHOWN, CELL_PX, GAP_PX, TITLE_PX = 10, 200, 6, 24


def main() -> None:
    """Write the picture."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m benchmarks.cutouts BEFORE AFTER")
    with tempfile.TemporaryDirectory() as folder:
        photos = write_shown(Path(folder, "photos"))
        ways = {"before": ("--edge", "whole", "--as-is"), "after": ()}
        for (name, options), run in zip(ways.items(), sys.argv[1:], strict=True):
            predict(photos, Path(folder, name), "--model", run, *options)
        rows = [
            [path, *(Path(folder, name, "cutouts", f"{path.stem}.png") for name in ways)]
            for path in sorted(photos.iterdir())
        ]
        side_by_side(("photo", *ways), rows).save(PICTURE, "JPEG", quality=88)


def write_shown(folder: Path) -> Path:
    """Write some test photos, evenly spread over their list, at their own size."""
    arrays = PetArrays.open(ROOT / "data/pets")
    names = arrays.index["name"][arrays.rows("test")].to_list()
    chosen = {names[round(i * (len(names) - 1) / (SHOWN - 1))] for i in range(SHOWN)}
    folder.mkdir()
    for name, content in photo_files(ROOT / "data/archives", chosen):
        (folder / f"{name}.jpg").write_bytes(content)
    return folder


def side_by_side(titles: Sequence[str], rows: Sequence[Sequence[Path]]) -> Image.Image:
    """Lay pictures out in two blocks of rows, with a column for each title, on a pale green ground."""
    half, font = -(-len(rows) // 2), ImageFont.load_default(14)
    width = len(titles) * CELL_PX
    sheet = Image.new("RGB", (2 * width + 4 * GAP_PX, TITLE_PX + half * CELL_PX), "white")
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        left, top = place // half * (width + 4 * GAP_PX), TITLE_PX + place % half * CELL_PX
        for column, (title, path) in enumerate(zip(titles, row, strict=True)):
            centre = left + column * CELL_PX + CELL_PX // 2
            if place % half == 0:
                pen.text((centre, TITLE_PX // 2), title, "#333333", font, anchor="mm")
            with Image.open(path) as opened:
                picture = opened.convert("RGBA")
            scale = (CELL_PX - GAP_PX) / max(picture.size)
            picture = picture.resize([max(1, round(side * scale)) for side in picture.size])
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "#cfe0cf"), picture)
            sheet.paste(
                picture.convert("RGB"), (centre - picture.width // 2, top + (CELL_PX - picture.height) // 2)
            )
    return sheet


if __name__ == "__main__":
    main()
