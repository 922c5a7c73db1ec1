"""A finished run of the store, with a network of random weights."""

from pathlib import Path
from typing import Any

import torch

from petseg.core.files import sha256_file
from petseg.core.textfiles import write_json
from petseg.evaluation.outputs import HEADLINES
from petseg.models.network import Network
from petseg.models.networks import build_network
from petseg.models.weights import save_tensors
from petseg.params import OUTPUTS, ModelParams
from petseg.store.layout import ABOUT, EVALUATIONS, FORMAT, MANIFEST, RECORDS, WEIGHTS
from petseg.store.run import StoredRun


def trained(**changes: Any) -> dict[str, Any]:
    """Return the entries that the manifest of every finished training must have, with ``changes``."""
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


def make_run(
    folder: Path, name: str, width: int = 4, *, one_output: bool = False, spread: bool = False
) -> StoredRun:
    """Make a finished run with its evaluation. The network is random; its probabilities are near 0.5.

    Args:
        folder: of the run.
        name: of the network.
        width: of the network.
        one_output: make an older network, which has one output.
        spread: spread the probabilities, so that some are near 0 and 1.
    """
    torch.manual_seed(0)
    model = ModelParams.model_validate(
        {"name": name, "width": width, "depth": 2, "dropout": 0.0, "encoder_weights": "none"}
    )
    network = build_network(model).train()
    if one_output:
        network.keep_one_output()
    for _ in range(20):
        network(torch.randn(2, 3, 64, 64))  # gives the batch norms statistics
    if spread:
        _spread(network)
    digest = save_tensors(folder / WEIGHTS, network.state_dict(), {})
    about: dict[str, Any] = {"model": model.model_dump(), "image_size": 64}
    about |= {} if one_output else {"outputs": OUTPUTS}
    write_json(folder / ABOUT, about | {"tensors_sha256": digest})
    hashes = {path.name: sha256_file(path) for path in folder.iterdir()}
    write_json(folder / MANIFEST, trained(tensors_sha256=digest, files=hashes))
    evaluation = folder / EVALUATIONS / "e"
    both = {} if one_output else {"thresholds": {"whole": 0.45, "tight": 0.27}}
    write_json(evaluation / HEADLINES, {"threshold": 0.45} | both)
    made = {"created": "2026", "settings": {"infer.flip_average": True}}
    hashes = {HEADLINES: sha256_file(evaluation / HEADLINES)}
    write_json(evaluation / RECORDS[EVALUATIONS], made | {"files": hashes})
    return StoredRun.open(folder)


def save_network(
    network: Network, model: ModelParams, size_px: int, folder: Path, name: str
) -> tuple[Path, Path]:
    """Save a network of two outputs, NAME.safetensors, and its description, NAME.json; return both."""
    weights, about = folder / f"{name}.safetensors", folder / f"{name}.json"
    digest = save_tensors(weights, network.state_dict(), {})
    description = {"model": model.model_dump(), "image_size": size_px, "outputs": OUTPUTS}
    write_json(about, description | {"tensors_sha256": digest})
    return weights, about


@torch.no_grad()
def _spread(network: Network) -> None:
    """Give the logits of smooth photos a mean of 0 and a standard deviation of 2."""
    photos = torch.nn.functional.interpolate(torch.randn(8, 3, 6, 6), (64, 64), mode="bicubic")
    logits = network.head(network.eval().features(photos))
    deviation, mean = torch.std_mean(logits, (0, 2, 3))
    weight, bias = network.head.weight, network.head.bias
    assert bias is not None
    weight *= 2 / deviation.view(-1, 1, 1, 1)
    bias.copy_((bias - mean) * 2 / deviation)
