"""The files of a run, and the key that names it.

``runs/store.json``, ``runs/ledger/``  what the store has ever finished: petseg.store.ledger
``runs/<key>/``
    ``manifest.json``     what the run is: params, data, code, commit, versions; in the end, hashes
    ``changes.diff``      what differed from that commit, where something did
    ``history.jsonl``     a row an epoch, with times and speeds
    ``code.zip``          the code that the key is made of, and all else that training it again needs
    ``checkpoints/``      the whole state after the last two epochs and after the best, until it is finished
    ``shown.png``         the fixed validation photos, side by side
    ``evolution/``        a PNG an epoch: the masks predicted for them
    ``model.safetensors`` weights of the best epoch, once the run is finished; the next five likewise
    ``original.*``        in place of most of these: the file that was adopted, byte for byte
    ``last.safetensors``  weights of the last epoch, where that is not the best
    ``model.json``        what is needed to use them
    ``history.csv``       what of the history the same training gives again, for DVC
    ``evolution.npz``     the masks of all epochs
    ``validation.csv``    the Dice of each validation photo, by these weights
    ``evaluations/<key>/``  what infer found, each way of inferring once (petseg.evaluation.outputs)
    ``figures/<key>/``    what plot drew, and the report page, likewise
    ``card.md``           all of it for people, written anew whenever more is known

The key is the hash of what determines the weights: params, data and code. A finished run is read-only:
what is damaged is put back from a copy (petseg.store.heal), and only petseg.store.prune takes a run out.
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
EVALUATIONS, FIGURES = "evaluations", "figures"  # what later stages add,
RECORDS = {EVALUATIONS: "evaluation.json", FIGURES: "figures.json"}  # and the record of each addition
ORIGINAL = "original"  # adopted weights as they were found, byte for byte; with their ending
PAGE = "report.html"  # among the figures
FORMAT = 1
KEY_LENGTH = 16


def key_of(settings: Mapping[str, Any], data_sha256: str, code_sha256: str) -> str:
    """Return the name of the run, or of the evaluation, that these determine."""
    text = json.dumps([FORMAT, settings, data_sha256, code_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def weights_about(key: str, epoch: int | None = None) -> dict[str, Any]:
    """Return what a run's weights say of themselves; those of the best epoch do not name it."""
    return {"run_key": key} if epoch is None else {"run_key": key, "epoch": epoch}


def manifests(store: Path) -> list[Path]:
    """Return the manifest of each run of the store, sorted."""
    return records_in(store, MANIFEST)


def records_in(folder: Path, name: str) -> list[Path]:
    """Return the files of this name in the folders of a folder, sorted; hidden folders are drafts."""
    return [path for inner in listed(folder, "[!.]*") if (path := inner / name).exists()]


def free(path: Path) -> Path:
    """Return the path, or the first of path-2, path-3 and so on at which nothing lies."""
    names = itertools.chain([path.name], (f"{path.name}-{n}" for n in itertools.count(2)))
    return next(free for free in map(path.with_name, names) if not free.exists())
