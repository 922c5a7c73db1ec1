"""A finished run of the store, with random weights."""

from pathlib import Path

import torch

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.evaluation.outputs import HEADLINES
from petseg.models.networks import build_network
from petseg.models.weights import save_tensors
from petseg.params import ModelParams
from petseg.store.layout import ABOUT, EVALUATIONS, FORMAT, MANIFEST, RECORDS, WEIGHTS
from petseg.store.run import StoredRun


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
    about = {"model": model.model_dump(), "image_size": 64, "boundary": "foreground"}
    write_json(folder / ABOUT, about | {"tensors_sha256": digest})
    hashes = {path.name: sha256_file(path) for path in folder.iterdir()}
    record = {"format": FORMAT, "status": "finished", "created": "2026", "tensors_sha256": digest}
    write_json(folder / MANIFEST, record | {"files": hashes})
    evaluation = folder / EVALUATIONS / "e"
    write_json(evaluation / HEADLINES, {"threshold": 0.45})
    made = {"created": "2026", "settings": {"infer.flip_average": True}}
    hashes = {HEADLINES: sha256_file(evaluation / HEADLINES)}
    write_json(evaluation / RECORDS[EVALUATIONS], made | {"files": hashes})
    return StoredRun.open(folder)
