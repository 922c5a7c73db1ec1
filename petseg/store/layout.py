"""The files of a run, and the key that names it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MANIFEST, HISTORY, CHANGES, CARD = "manifest.json", "history.jsonl", "changes.diff", "card.md"
WEIGHTS, ABOUT, VALIDATION = "model.safetensors", "model.json", "validation.csv"
SHOWN, EVOLUTION = "shown.png", "evolution"
EVALUATIONS, FIGURES = "evaluations", "figures"  # what later stages add,
RECORDS = {EVALUATIONS: "evaluation.json", FIGURES: "figures.json"}  # and the record of each addition
HEADLINES, SCORES, PER_IMAGE, BREEDS = "test.json", "scores.json", "per_image.csv", "breeds.csv"
THRESHOLDS, CALIBRATION = "thresholds.csv", "calibration.csv"
FORMAT = 1
KEY_LENGTH = 16


def key_of(settings: Mapping[str, Any], data_sha256: str, code_sha256: str) -> str:
    """Return the name of the run, or of the evaluation, that these determine."""
    text = json.dumps([FORMAT, settings, data_sha256, code_sha256], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
