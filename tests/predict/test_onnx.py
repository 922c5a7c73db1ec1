import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from petseg.cli import app
from petseg.data.arrays import PetArrays
from petseg.data.images import resize_photo
from petseg.errors import ExportError, StoreError
from petseg.models.predictor import Predictor, at_own_size
from petseg.predict import onnx as exporting
from petseg.predict.onnx import INPUT, OUTPUT, export_onnx
from petseg.store.layout import ABOUT, WEIGHTS
from tests.support import ROOT
from tests.support.runs import make_run


@pytest.fixture(scope="module")
def photos() -> list[NDArray[np.uint8]]:
    """Real photos of several sizes."""
    with tarfile.open(ROOT / "data/sample/images.tar.gz") as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][::60]
        files = [archive.extractfile(member) for member in members]
        found = [np.array(Image.open(io.BytesIO(f.read())).convert("RGB")) for f in files if f]
    assert len({photo.shape for photo in found}) > 3
    return found


@pytest.mark.whole
@pytest.mark.parametrize("name", ["unet", pytest.param("resnet34_unet", marks=pytest.mark.slow)])
def test_onnx_gives_the_results_of_torch_on_real_photos(
    name: str, photos: list[NDArray[np.uint8]], sample_arrays: PetArrays, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", name)
    made = export_onnx(run, sample_arrays, tmp_path / "new/net.onnx")
    assert (made.thresholds, made.compared) == ({"whole": 0.45, "tight": 0.27}, 6)
    assert made.difference is not None
    assert 0 < made.difference < 1e-4
    assert str(ROOT).encode() not in made.path.read_bytes()  # it does not name the machine that made it
    session = onnxruntime.InferenceSession(made.path)
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["run_key"]) == "run"
    assert json.loads(known["thresholds"]) == {"whole": 0.45, "tight": 0.27}
    assert json.loads(known["outputs"]) == ["whole", "tight"]
    predictor = Predictor.load(run.folder / WEIGHTS, run.folder / ABOUT, torch.device("cpu"), True)
    for photo in photos:
        (probability,) = session.run([OUTPUT], {INPUT: photo[None]})
        assert probability.shape == (1, 2, *photo.shape[:2])
        ours = exporting.PhotoToProbability(predictor)(torch.from_numpy(photo[None])).detach().numpy()
        np.testing.assert_allclose(probability, ours, atol=1e-4)
        small = np.array([resize_photo(Image.fromarray(photo), 64)])  # resized by Pillow, to 8-bit values
        usual = at_own_size(predictor.probability(small, 1)[0].numpy(), photo.shape[:2])
        assert np.abs(probability[0] - usual).mean() < 0.005
    batch = np.stack([photos[0], photos[0][:, ::-1]])
    (both,) = session.run(None, {INPUT: batch})
    np.testing.assert_allclose(both[0], both[1][..., ::-1], atol=1e-4)  # it averages over the mirrored photo


@pytest.mark.whole
def test_an_export_with_other_results_is_not_written(
    sample_arrays: PetArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", "unet")
    for difference in (0.5, float("nan")):
        monkeypatch.setattr(exporting, "largest_difference", lambda *_, d=difference: d)
        with pytest.raises(ExportError, match="nothing is written"):
            export_onnx(run, sample_arrays, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize("change", [{"status": "running"}, {"files": {WEIGHTS: ""}}])
def test_a_run_that_is_no_network_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", "unet")
    run.manifest |= change
    with pytest.raises(StoreError, match="is not finished, or nothing says what its network is"):
        export_onnx(run, None, tmp_path / "net.onnx")


def test_only_a_new_file_named_onnx_is_written(tmp_path: Path) -> None:
    taken = tmp_path / "taken.onnx"
    taken.write_bytes(b"precious")
    for path, reason in ((taken, "is there already"), (tmp_path / "net.pt", "must end in .onnx")):
        result = CliRunner().invoke(app, ["runs", "export", "x", "--onnx", str(path)])
        assert result.exit_code
        assert reason in str(result.exception)
    assert taken.read_bytes() == b"precious"
