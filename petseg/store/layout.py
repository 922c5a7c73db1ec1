"""The files of a run, and the key that names it.

``runs/store.json``, ``runs/ledger/``  the log of all changes of the store: petseg.store.ledger
``runs/<key>/``
    ``manifest.json``     the facts about the run: params, data, code, commit, versions; at the end, hashes
    ``changes.diff``      the difference from that commit, if there was one
    ``history.jsonl``     one row per epoch, with times and speeds
    ``code.zip``          the code that the key hashes, and the other files that a repeated training needs
    ``checkpoints/``      the whole state after the last two epochs and after the best, until it is finished
    ``shown.png``         the fixed validation photos, side by side
    ``evolution/``        one PNG per epoch: the masks predicted for these photos
    ``model.safetensors`` weights of the best epoch, once the run is finished; the next five likewise
    ``original.*``        in an adopted run, in place of most of these: the adopted file, byte for byte
    ``last.safetensors``  weights of the last epoch, if that is not the best
    ``model.json``        the description that is needed to use the weights
    ``history.csv``       the part of the history that a repeated training gives again, for DVC
    ``evolution.npz``     the masks of all epochs
    ``validation.csv``    the Dice of each validation photo with these weights
    ``evaluations/<key>/``  the files of infer, once for each way of inferring (petseg.evaluation.outputs)
    ``figures/<key>/``    the figures of plot and the report page, likewise
    ``card.md``           a summary for people, written again whenever more is known

The key is the hash of what determines the weights: params, data and code. A finished run is read-only:
damaged files are restored from a copy (petseg.store.heal), and only petseg.store.prune deletes a run.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petseg.core.files import listed

MANIFEST, HISTORY, CHANGES, CARD = "manifest.json", "history.jsonl", "changes.diff", "card.md"
WEIGHTS, ABOUT, VALIDATION = "model.safetensors", "model.json", "validation.csv"
DECISION = "decision.json"  # of an exported model: how its probability becomes a mask
LAST_WEIGHTS, CHECKPOINTS, CODE = "last.safetensors", "checkpoints", "code.zip"
SHOWN, EVOLUTION = "shown.png", "evolution"
CURVES, EVOLUTION_MASKS = "history.csv", "evolution.npz"
EVALUATIONS, FIGURES = "evaluations", "figures"  # what later stages add
RECORDS = {EVALUATIONS: "evaluation.json", FIGURES: "figures.json"}  # the record of each addition
ORIGINAL = "original"  # the adopted file, byte for byte; the name keeps its ending
PAGE = "report.html"  # among the figures
FORMAT = 1
KEY_LENGTH = 16


def key_of(settings: Mapping[str, Any], data_sha256: str, code_sha256: str) -> str:
    """Return the key of the run, or of the evaluation, that these determine."""
    text = json.dumps([FORMAT, settings, data_sha256, code_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def weights_about(key: str, epoch: int | None = None) -> dict[str, Any]:
    """Return the description inside a file of a run's weights; that of the best epoch names no epoch."""
    return {"run_key": key} if epoch is None else {"run_key": key, "epoch": epoch}


def manifests(store: Path) -> list[Path]:
    """Return the manifest of each run of the store, sorted."""
    return records_in(store, MANIFEST)


def records_in(folder: Path, name: str) -> list[Path]:
    """Return the files of this name in the subfolders of a folder, sorted; hidden ones are drafts."""
    return [path for inner in listed(folder, "[!.]*") if (path := inner / name).exists()]


def free(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3 and so on that does not exist."""
    names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
    return next(free for free in map(path.with_name, names) if not free.exists())
