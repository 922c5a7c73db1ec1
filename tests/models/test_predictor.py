import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from petseg.data.batches import to_input
from petseg.errors import DamagedFile, DataError
from petseg.evaluation.thresholds import THRESHOLDS, choose_threshold
from petseg.models.masking import Thresholds, cleaned, cut
from petseg.models.networks import build_network
from petseg.models.predictor import Predictor
from petseg.models.weights import load_tensors, save_tensors
from petseg.params import OUTPUTS, ModelParams
from petseg.store.layout import ABOUT, WEIGHTS
from tests.support.runs import make_run, save_network

CPU = torch.device("cpu")
MODEL = ModelParams(name="unet", width=4, depth=2, dropout=0.0, encoder_weights="none")
PHOTOS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    network = build_network(MODEL).train()
    network(torch.randn(8, 3, 32, 32))  # gives the batch norms statistics
    return save_network(network, MODEL, 32, tmp_path, "model")


def test_batches_do_not_change_a_prediction(files: tuple[Path, Path]) -> None:
    predictor = Predictor.load(*files, CPU, flip_average=False)
    whole = predictor.probability(PHOTOS, 64)
    assert whole.shape == (5, 2, 32, 32)
    assert 0 <= whole.min() <= whole.max() <= 1
    torch.testing.assert_close(predictor.probability(PHOTOS, 2), whole, atol=1e-6, rtol=0)


def test_the_flip_average_gives_a_mirrored_photo_the_mirrored_mask(files: tuple[Path, Path]) -> None:
    mirror = np.ascontiguousarray(PHOTOS[:, :, ::-1])
    for flip_average in (False, True):
        predictor = Predictor.load(*files, CPU, flip_average)
        same = torch.allclose(
            predictor.probability(mirror, 8), predictor.probability(PHOTOS, 8).flip(-1), atol=1e-5
        )
        assert same is flip_average


def test_masks_have_the_size_of_their_photos(files: tuple[Path, Path]) -> None:
    predictor = Predictor.load(*files, CPU, flip_average=False)
    probability = predictor.probability(PHOTOS, 8)
    thresholds: Thresholds = {"whole": float(probability[:, 0].median()), "tight": 0.2}
    for edge, wanted in zip(OUTPUTS, cut(probability.numpy(), thresholds).swapaxes(0, 1), strict=True):
        masks = predictor.masks_at_own_size(map(Image.fromarray, PHOTOS), thresholds, edge, clean=False)
        assert {mask.dtype for mask in masks} == {np.dtype(np.uint8)}
        assert (np.stack(masks) == wanted).all()
    clean = predictor.masks_at_own_size(map(Image.fromarray, PHOTOS), thresholds, "whole", clean=True)
    expected = [cut(cleaned(each, thresholds), thresholds)[0] for each in probability.numpy()]
    assert (np.stack(clean) == np.stack(expected)).all()
    assert (np.stack(clean) != cut(probability.numpy(), thresholds)[:, 0]).any()
    sizes = [(20, 70), (200, 150)]
    photos = (Image.fromarray(PHOTOS[0]).resize((width, height)) for height, width in sizes)
    masks = predictor.masks_at_own_size(photos, thresholds, "tight", clean=True)
    assert [mask.shape for mask in masks] == sizes


def test_the_tight_probability_is_never_above_the_whole_one(files: tuple[Path, Path]) -> None:
    for flip_average in (False, True):
        whole, tight = Predictor.load(*files, CPU, flip_average).probability(PHOTOS, 8).unbind(1)
        assert (tight <= whole).all()
        assert (tight < whole).any()


def test_a_network_of_one_output_gives_it_twice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(MODEL)
    network.keep_one_output()
    network.eval()
    weights, about = tmp_path / "model.safetensors", tmp_path / "model.json"
    description = {"model": MODEL.model_dump(), "image_size": 32, "boundary": "foreground"}
    about.write_text(
        json.dumps(description | {"tensors_sha256": save_tensors(weights, network.state_dict(), {})})
    )
    for flip_average in (False, True):
        predictor = Predictor.load(weights, about, CPU, flip_average)
        assert not predictor.has_two_outputs
        whole, tight = predictor.probability(PHOTOS, 8).unbind(1)
        assert torch.equal(whole, tight)
        alone = predictor.probability_of(Image.fromarray(PHOTOS[0]))
        np.testing.assert_allclose(alone, torch.stack([whole[0], tight[0]]).numpy(), atol=1e-6)
    expected = network(to_input(torch.from_numpy(PHOTOS))).sigmoid().squeeze(1)
    found = Predictor.load(weights, about, CPU, False).probability(PHOTOS, 8)[:, 0]
    torch.testing.assert_close(found, expected.detach())


def test_photos_of_another_size_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="trained on 32x32"):
        Predictor.load(*files, CPU, False).probability(PHOTOS[:, :16, :16], 8)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        "[]",
        '{"model": {"name": "unet"}}',
        json.dumps({"model": MODEL.model_dump() | {"width": 8}}),
    ],
)
def test_a_description_that_does_not_fit_is_refused(files: tuple[Path, Path], text: str) -> None:
    files[1].write_text(text)
    with pytest.raises(DamagedFile, match="does not describe") as error:
        Predictor.load(*files, CPU, False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("image_size", "32", "image_size: Input should be a valid integer"),
        ("image_size", True, "image_size: Input should be a valid integer"),
        ("image_size", 0, "image_size: Input should be greater"),
        ("image_size", 10**30, "image_size: Input should be less"),
        ("image_size", 33, "image_size is no multiple of 4"),
        ("outputs", "both", "outputs: Input should be a valid list"),
        ("outputs", ["edge"], "outputs.0: Input should be 'whole' or 'tight'"),
        ("tensors_sha256", None, "tensors_sha256: Input should be a valid string"),
        ("tensors_sha256", "0" * 64, "it is of other weights"),
        ("model", [], "model: Input should be a valid dictionary"),
        ("model", MODEL.model_dump() | {"width": 4.0}, "width"),
        ("model", MODEL.model_dump() | {"width": 1024, "depth": 8}, "Missing key"),
        ("model", MODEL.model_dump() | {"width": 1024}, "size mismatch"),
        ("run_key", 5, "run_key: Input should be a valid string"),
    ],
)
def test_an_odd_value_in_a_description_is_named(
    files: tuple[Path, Path], key: str, value: object, reason: str
) -> None:
    """A network of width 1024 would take 3 TB: memory is taken only after the weights are known to fit."""
    files[1].write_text(json.dumps(json.loads(files[1].read_text()) | {key: value}))
    with pytest.raises(DamagedFile, match="does not describe") as error:
        Predictor.load(*files, CPU, False)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_dtype_are_converted(files: tuple[Path, Path]) -> None:
    before = Predictor.load(*files, CPU, False)
    tensors, _ = load_tensors(files[0])
    doubles = {name: value.double() for name, value in tensors.items() if value.is_floating_point()}
    digest = save_tensors(files[0], tensors | doubles, {})
    files[1].write_text(json.dumps(json.loads(files[1].read_text()) | {"tensors_sha256": digest}))
    after = Predictor.load(*files, CPU, False)
    assert torch.equal(after.probability(PHOTOS, 8), before.probability(PHOTOS, 8))


def test_the_threshold_of_the_highest_dice_is_chosen() -> None:
    probability = torch.full((3, 8, 8), 0.1)
    probability[:, :4] = 0.32
    trimaps = torch.full((3, 8, 8), 2, dtype=torch.uint8)
    trimaps[:, :4] = 1
    # 0.15 to 0.30 are all perfect; the nearest of them to 0.5 is chosen.
    assert choose_threshold(probability, trimaps, "foreground") == 0.3
    assert 0.5 in THRESHOLDS
    assert choose_threshold(torch.zeros(3, 8, 8), trimaps, "foreground") == 0.5


@pytest.mark.whole
@pytest.mark.parametrize("name", ["unet", "resnet34_unet"])
def test_folding_batch_norms_changes_no_prediction(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", name)
    predictor = Predictor.load(run.folder / WEIGHTS, run.folder / ABOUT, torch.device("cpu"), False)
    tensors, _ = load_tensors(run.folder / WEIGHTS)
    plain = build_network(ModelParams.model_validate(predictor.about["model"])).eval()
    plain.load_state_dict(tensors)
    photos = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(predictor.network(photos), plain(photos), atol=1e-4, rtol=1e-4)
    kinds = [type(module) for module in predictor.network.modules()]
    assert kinds.count(torch.nn.BatchNorm2d) < [type(module) for module in plain.modules()].count(
        torch.nn.BatchNorm2d
    )
