"""A finished run of the store, with random weights."""

from pathlib import Path
from typing import Any

import torch

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.evaluation.outputs import HEADLINES
from petseg.models.networks import build_network
from petseg.models.weights import save_tensors
from petseg.params import OUTPUTS, ModelParams
from petseg.store.layout import ABOUT, EVALUATIONS, FORMAT, MANIFEST, RECORDS, WEIGHTS
from petseg.store.run import StoredRun


def trained(**changes: Any) -> dict[str, Any]:
    """The manifest of a finished training, as far as every one must have it, with these entries changed."""
    return {
        "format": FORMAT,
        "status": "finished",
        "created": "2026-01-01T10:00:00+00:00",
        "finished": "2026-01-01T11:00:00+00:00",
        "params": {},
        "data_sha256": "d",
        "environment": {},
        "git": {"commit": None, "dirty": False},
        "best": {"epoch": 1, "val_dice": 0.5},
        "tensors_sha256": "t",
        "files": {},
    } | changes


def make_run(folder: Path, name: str, width: int = 4) -> StoredRun:
    """A finished run of the store, with its evaluation; the network is random."""
    torch.manual_seed(0)
    model = ModelParams.model_validate(
        {"name": name, "width": width, "depth": 2, "dropout": 0.0, "encoder_weights": "none"}
    )
    network = build_network(model).train()
    for _ in range(20):
        network(torch.randn(2, 3, 64, 64))  # so that the batch norms have seen something
    digest = save_tensors(folder / WEIGHTS, network.state_dict(), {})
    about = {"model": model.model_dump(), "image_size": 64, "outputs": OUTPUTS}
    write_json(folder / ABOUT, about | {"tensors_sha256": digest})
    hashes = {path.name: sha256_file(path) for path in folder.iterdir()}
    write_json(folder / MANIFEST, trained(tensors_sha256=digest, files=hashes))
    evaluation = folder / EVALUATIONS / "e"
    write_json(evaluation / HEADLINES, {"threshold": 0.45, "thresholds": {"whole": 0.45, "tight": 0.27}})
    made = {"created": "2026", "settings": {"infer.flip_average": True}}
    hashes = {HEADLINES: sha256_file(evaluation / HEADLINES)}
    write_json(evaluation / RECORDS[EVALUATIONS], made | {"files": hashes})
    return StoredRun.open(folder)
