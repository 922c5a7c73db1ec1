"""Small runs of a store, as training, infer and the commands leave them. They hold no network."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from petseg.cli import app
from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.errors import PetsegError
from petseg.evaluation.outputs import BREEDS, HEADLINES, PER_IMAGE, SCORES
from petseg.models.weights import save_tensors
from petseg.store.chain import FINISHED, MARKER
from petseg.store.keep import keep
from petseg.store.layout import ABOUT, EVALUATIONS, FORMAT, HISTORY, MANIFEST, WEIGHTS
from petseg.store.ledger import changing
from petseg.store.records import sealed
from petseg.store.run import StoredRun

ENVIRONMENT = {"device": "cpu", "cpu_capability": "AVX2", "threads": 2, "torch": "2.12", "python": "3.11"}


def make_run(root: Path, key: str, val_dice: float = 0.8, **changes: Any) -> StoredRun:
    """Make a finished run, as training leaves it. All its weights equal its validation Dice."""
    folder = root / "runs" / key
    digest = save_tensors(folder / WEIGHTS, {"w": torch.full((3,), val_dice)}, {"run_key": key})
    write_json(folder / ABOUT, {"image_size": 64})
    rows = [{"epoch": 1, "val_dice": val_dice, "elapsed_s": 61.0}]
    (folder / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {
        "format": FORMAT,
        "status": "finished",
        "finished": "2026-01-09T10:00:00+00:00",
        "created": f"2026-01-0{len(list(root.glob('runs/*')))}T10:00:00+00:00",
        "params": {"model.name": "unet", "model.width": 16, "train.loss": "bce", "train.seed": 0},
        "data": {"data.source": "sample", "data.image_size": 64},
        "photos": {"train": 12, "val": 4},
        "split": {"split.fold": None},
        "git": {"commit": "0123456789", "dirty": False},
        "environment": ENVIRONMENT,
        "data_sha256": "d",
        "best": rows[0],
        "tensors_sha256": digest,
        "files": {path.name: sha256_file(path) for path in folder.iterdir()},
    }
    with ExitStack() as stack:
        if (folder.parent / MARKER).exists():  # otherwise the next change of the store begins its ledger
            held = stack.enter_context(changing(folder.parent))
            stack.enter_context(held.noting(FINISHED, key))
        write_json(folder / MANIFEST, sealed(manifest | changes))
    return StoredRun.open(folder)


def evaluate(run: StoredRun, dice: float, key: str = "e1") -> StoredRun:
    """Add an evaluation, as infer leaves it."""
    folder = run.folder.parent.parent
    scores: dict[str, float | None] = {
        "dice_per_image": dice,
        "dice_per_image_low": dice - 0.1,
        "dice_per_image_high": dice + 0.1,
    }
    scores |= {"iou_per_image": dice / 2, "boundary_f_per_image": None}
    others = dict.fromkeys(("own_resolution", "mean_mask", "all_foreground"), scores)
    write_json(folder / "h", {"photos": 9, "boundary": "ignore", "threshold": 0.5} | scores | others)
    (folder / "b").write_text(
        "breed,photos,dice_per_image,dice_per_image_low,dice_per_image_high\n"
        "rare_breed,1,0.1,0.1,0.1\nbasset_hound,7,0.5,0.4,0.6\n"
    )
    for name in "sp":
        (folder / name).write_text(name)
    files = {HEADLINES: folder / "h", BREEDS: folder / "b", SCORES: folder / "s", PER_IMAGE: folder / "p"}
    keep(run, EVALUATIONS, key, {}, files)
    return StoredRun.open(run.folder)


def petseg(*arguments: str, fails: bool = False) -> str:
    """Run the command in this process, and return its output, or the text of its error."""
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, PetsegError):
        assert fails, done.exception
        return str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code != 0) is fails, done.output
    return done.output


def flip(path: Path) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text in a file."""
    text = path.read_text()
    assert old in text
    path.chmod(0o644)
    path.write_text(text.replace(old, new))
