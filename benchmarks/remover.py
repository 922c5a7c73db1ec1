"""The second peer: a general background remover, the npm package @imgly/background-removal-node.

``python -m benchmarks.peer remover`` installs it into .venv-peer-node, cuts out the test photos with it and
with ``petseg predict`` (with the model that ``make repro`` trained), and prints the scores of both at the
photos' own size, under each rule for the border. The remover is used as its documentation shows; its mask has
the pixels that are at least half opaque. Photos that it has already cut out are not cut out again.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.__main__ import ROOT
from benchmarks.cleaning import ANSWERS
from benchmarks.cutouts import side_by_side, write_shown
from benchmarks.predicting import predict
from petseg.core.textfiles import write_json
from petseg.data.arrays import PetArrays
from petseg.data.preprocess import original_trimaps, photo_files
from petseg.evaluation.scores import Tallies, tally
from petseg.params import OUTPUTS

PACKAGE = {"@imgly/background-removal-node": "1.4.5"}
# The package's own version of sharp downloads a library from outside the registry; this version includes it.
OVERRIDES = {"sharp": "0.33.5"}
FOLDER = ROOT / ".venv-peer-node"
RESULT, SHEET = ROOT / "docs/results/remover.json", ROOT / "docs/figures/remover.jpg"
MaskOf = Callable[[str], NDArray[np.bool_]]


def main() -> None:
    """Print the table; write its numbers and a contact sheet to docs/."""
    arrays, archives = PetArrays.open(ROOT / "data/pets"), ROOT / "data/archives"
    names = arrays.index["name"][arrays.rows("test")].to_list()
    trimaps = dict(original_trimaps(archives, names))
    install()
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary, "photos")
        photos.mkdir()
        for name, content in photo_files(archives, names):
            (photos / f"{name}.jpg").write_bytes(content)
        rate, peak_mb = remove(photos)
        results: dict[str, dict[str, object]] = {"remover": {"photos_per_s": rate, "peak_mb": peak_mb}}
        masks: dict[str, MaskOf] = {}
        for edge in OUTPUTS:
            output, peak_mb = predict(photos, Path(temporary, edge), "--edge", edge)
            masks[edge] = partial(our_mask, Path(temporary, edge, "masks"))
        results["petseg"] = {
            "photos_per_s": output["done"] / output["seconds"],
            "peak_mb": peak_mb,
            "model": output["model"],
        }
        scored = {
            "remover": score(trimaps, remover_mask, remover_mask),
            "petseg": score(trimaps, masks["whole"], masks["tight"]),
        }
        folders = (FOLDER / "cutouts", Path(temporary, "tight/cutouts"))
        shown = write_shown(Path(temporary, "shown"))
        rows = [[path, *(each / f"{path.stem}.png" for each in folders)] for path in sorted(shown.iterdir())]
        side_by_side(("photo", "the remover", "petseg"), rows).save(SHEET, "JPEG", quality=88)
    print("| by | rule | Dice | boundary F | photos/s | peak memory |")
    print("|---|---|---|---|---|---|")
    for who, tallies in scored.items():
        speed = f"{results[who]['photos_per_s']:.2f} | {results[who]['peak_mb']:.0f} MB"
        for rule, found in tallies.items():
            scores = results[who][rule] = found.scores()
            low, high = scores["dice_per_image_low"], scores["dice_per_image_high"]
            edges = "" if rule == "ignore" else f"{scores['boundary_f_per_image']:.4f}"
            dice = f"{scores['dice_per_image']:.4f} ({low:.4f} to {high:.4f})"
            print(f"| {who} | {rule} | {dice} | {edges} | {speed} |")
    write_json(RESULT, {"package": PACKAGE, "photos": len(names)} | results)


def install() -> None:
    """Install the package, without the scripts of its dependencies, which would download more."""
    if (FOLDER / ".made").exists():
        return
    FOLDER.mkdir(exist_ok=True)
    about = {"private": True, "type": "module", "dependencies": PACKAGE, "overrides": OVERRIDES}
    write_json(FOLDER / "package.json", about)
    shutil.copy(ROOT / "benchmarks/remover.mjs", FOLDER)
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(command, cwd=FOLDER, check=True)
    (FOLDER / ".made").touch()


def remove(photos: Path) -> tuple[float, float]:
    """Cut out the remaining photos; return photos per second and peak memory in MB, over all calls."""
    out, log = FOLDER / "cutouts", FOLDER / "log.jsonl"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        missing = [path for path in sorted(photos.iterdir()) if not (out / f"{path.stem}.png").exists()]
        for path in missing:
            (Path(folder) / path.name).symlink_to(path)
        if missing:
            print(f"{len(missing)} photos by the remover", flush=True)
            with log.open("a") as file:
                subprocess.run(["node", "remover.mjs", folder, out], cwd=FOLDER, stdout=file, check=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    return len(seconds) / sum(seconds), max(line["peak_mb"] for line in lines if "peak_mb" in line)


def remover_mask(name: str) -> NDArray[np.bool_]:
    """Return the remover's mask: the pixels that are at least half opaque."""
    with Image.open(FOLDER / "cutouts" / f"{name}.png") as picture:
        mask: NDArray[np.bool_] = np.asarray(picture.convert("RGBA"))[..., 3] >= 128
    return mask


def our_mask(folder: Path, name: str) -> NDArray[np.bool_]:
    """Return a mask that ``petseg predict`` wrote."""
    with Image.open(folder / f"{name}.png") as picture:
        mask: NDArray[np.bool_] = np.asarray(picture) == 255
    return mask


def score(trimaps: dict[str, NDArray[np.uint8]], whole: MaskOf, tight: MaskOf) -> Tallies:
    """Score masks against the trimaps under each rule."""
    return tally(
        ((name, np.stack([whole(name), tight(name)]), trimap) for name, trimap in trimaps.items()), ANSWERS
    )
