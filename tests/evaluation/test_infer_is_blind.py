"""No test label can affect a choice: infer reads none before it has made all choices and predictions."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from petseg.data.arrays import PetArrays
from petseg.evaluation import evaluate
from petseg.models.networks import build_network
from petseg.models.predictor import Predictor
from petseg.models.weights import save_tensors, sha256_tensors
from petseg.params import OUTPUTS, ModelParams, Params, load_params
from stages import infer as stage
from tests.support import ROOT

MODEL = ModelParams(name="unet", width=2, depth=2, dropout=0.0, encoder_weights="none")


class Watched:
    """Trimaps that record which rows are read."""

    def __init__(self, trimaps: NDArray[np.uint8], notes: list[tuple[str, set[int]]]) -> None:
        self.trimaps, self.notes = trimaps, notes

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        self.notes.append(("trimaps", set(np.arange(len(self.trimaps))[rows].tolist())))
        read: NDArray[np.uint8] = self.trimaps[rows]
        return read

    def __array__(self, *_: Any, **__: Any) -> NDArray[np.uint8]:
        raise AssertionError("all trimaps were read at once")


@dataclasses.dataclass
class Inferred:
    """The outputs of the stage, and its steps in order."""

    metrics: dict[str, Any]
    masks: bytes
    notes: list[tuple[str, set[int]]]


def infer(params: Params, arrays: PetArrays, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Inferred:
    torch.manual_seed(0)
    network = build_network(MODEL).train()
    for _ in range(20):
        network(torch.randn(8, 3, 64, 64))
    weights, about = folder / "model.safetensors", folder / "model.json"
    save_tensors(weights, network.state_dict(), {})
    digest = sha256_tensors(network.state_dict())
    described = {"model": MODEL.model_dump(), "image_size": 64, "tensors_sha256": digest, "run_key": "k"}
    described["outputs"] = OUTPUTS
    about.write_text(json.dumps(described))
    (folder / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")  # MLflow is not tested here

    notes: list[tuple[str, set[int]]] = []
    trimaps: Any = Watched(arrays.trimaps, notes)
    watched = dataclasses.replace(arrays, trimaps=trimaps)
    monkeypatch.setattr(PetArrays, "open", lambda _: watched)
    for name in ("choose_threshold", "choose_answers", "original_trimaps"):
        original = getattr(evaluate, name)

        def recording(*arguments: Any, name: str = name, original: Any = original) -> Any:
            notes.append((name, set()))
            return original(*arguments)

        monkeypatch.setattr(evaluate, name, recording)
    predict = Predictor.probability

    def predicting(*arguments: Any) -> Any:
        notes.append((f"predict {arguments[-1]}", set()))
        return predict(*arguments)

    monkeypatch.setattr(Predictor, "probability", predicting)
    metrics = folder / "test.json"
    stage.infer(params, ROOT / "data/sample", folder, weights, folder / "test", metrics)
    return Inferred(json.loads(metrics.read_text()), (folder / "test/predictions.npz").read_bytes(), notes)


@pytest.fixture(scope="module")
def honest(sample_arrays: PetArrays, tmp_path_factory: pytest.TempPathFactory) -> Inferred:
    params = load_params(ROOT / "params.yaml")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return infer(params, sample_arrays, tmp_path_factory.mktemp("honest"), monkeypatch)


def test_infer_reads_test_labels_only_after_every_choice(honest: Inferred, sample_arrays: PetArrays) -> None:
    test = set(sample_arrays.rows("test").tolist())
    names = [name for name, _ in honest.notes]
    looked = [i for i, (name, rows) in enumerate(honest.notes) if rows & test or name == "original_trimaps"]
    assert looked, "the test photos were never scored"
    chosen = max(i for i, name in enumerate(names) if name in ("choose_threshold", "choose_answers"))
    assert names.count("choose_threshold") == 3  # for each output, and for the mean mask
    assert names.count("choose_answers") == 1
    assert max(chosen, names.index("predict test")) < looked[0]


def test_other_test_labels_give_the_same_choices_and_masks(
    honest: Inferred,
    params: Params,
    sample_arrays: PetArrays,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trimaps = np.array(sample_arrays.trimaps)
    test = sample_arrays.rows("test")
    trimaps[test] = np.random.default_rng(0).integers(1, 4, trimaps[test].shape)
    other = infer(params, dataclasses.replace(sample_arrays, trimaps=trimaps), tmp_path, monkeypatch)
    for chosen in ("threshold", "thresholds", "answers"):
        assert other.metrics[chosen] == honest.metrics[chosen]
    assert other.masks == honest.masks
    assert other.metrics["dice_per_image"] != honest.metrics["dice_per_image"]
    # These scores come from the archive, which has not changed.
    assert other.metrics["own_resolution"] == honest.metrics["own_resolution"]
