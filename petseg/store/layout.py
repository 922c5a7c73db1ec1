"""The files of a run, and the key that names it.

``runs/<key>/``
    ``manifest.json``     what the run is: params, data, code, commit, versions; in the end, hashes
    ``changes.diff``      what differed from that commit, where something did
    ``history.jsonl``     a row an epoch, with times and speeds
    ``checkpoints/``      the whole state after the last two epochs and after the best
    ``shown.png``         the fixed validation photos, side by side
    ``evolution/``        a PNG an epoch: the masks predicted for them
    ``model.safetensors`` weights of the best epoch, once the run is finished; the next four likewise
    ``model.json``        what is needed to use them
    ``history.csv``       what of the history the same training gives again, for DVC
    ``evolution.npz``     the masks of all epochs
    ``validation.csv``    the Dice of each validation photo, by these weights
    ``evaluations/<key>/``  what infer found, each way of inferring once (petseg.evaluation.outputs)
    ``figures/<key>/``    what plot drew, and the report page, likewise
    ``card.md``           all of it for people, written anew whenever more is known

The key is the hash of what determines the weights: params, data and code. A finished run is read-only.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MANIFEST, HISTORY, CHANGES, CARD = "manifest.json", "history.jsonl", "changes.diff", "card.md"
WEIGHTS, ABOUT, VALIDATION = "model.safetensors", "model.json", "validation.csv"
SHOWN, EVOLUTION = "shown.png", "evolution"
CURVES, EVOLUTION_MASKS = "history.csv", "evolution.npz"
EVALUATIONS, FIGURES = "evaluations", "figures"  # what later stages add,
RECORDS = {EVALUATIONS: "evaluation.json", FIGURES: "figures.json"}  # and the record of each addition
PAGE = "report.html"  # among the figures
FORMAT = 1
KEY_LENGTH = 16


def key_of(settings: Mapping[str, Any], data_sha256: str, code_sha256: str) -> str:
    """Return the name of the run, or of the evaluation, that these determine."""
    text = json.dumps([FORMAT, settings, data_sha256, code_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
