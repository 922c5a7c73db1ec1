import dataclasses
import math

import pytest
import torch

from petseg.data.arrays import PetArrays
from petseg.data.batches import Photos, load_photos, masks_of_outputs
from petseg.errors import NonFiniteLoss
from petseg.models.weights import sha256_tensors
from petseg.params import ModelParams, Params, TrainParams
from petseg.training.history import EpochRecord
from petseg.training.loop import TrainingState, _batches, fit, predict_masks, training_size, validate

CPU = torch.device("cpu")
MODEL = ModelParams(name="unet", width=4, depth=2, dropout=0.2, encoder_weights="none")


@pytest.fixture
def photos(sample_arrays: PetArrays) -> tuple[Photos, Photos]:
    whole = (load_photos(sample_arrays, split, CPU) for split in ("train", "val"))
    train, val = (Photos(p.images[:22, ::2, ::2], p.trimaps[:22, ::2, ::2], p.rows[:22]) for p in whole)
    return train, val


def settings(params: Params, **changes: object) -> TrainParams:
    small = {"epochs": 3, "batch_size": 8, "threads": torch.get_num_threads()}
    return TrainParams.model_validate(params.train.model_dump() | small | changes)


def run(
    photos: tuple[Photos, Photos], params: Params, train: TrainParams, state: TrainingState | None = None
) -> tuple[TrainingState, list[EpochRecord]]:
    state = state or TrainingState.new(MODEL, train, CPU)
    records = list(fit(state, *photos, train, params.augment))
    return state, records


def results(records: list[EpochRecord]) -> list[EpochRecord]:
    """The records without their times."""
    return [dataclasses.replace(record, images_per_s=0, elapsed_s=0) for record in records]


def test_the_same_seed_gives_the_same_bits(photos: tuple[Photos, Photos], params: Params) -> None:
    train = settings(params)
    one, other = run(photos, params, train), run(photos, params, train)
    assert sha256_tensors(one[0].tensors()) == sha256_tensors(other[0].tensors())
    assert results(one[1]) == results(other[1])
    different, _ = run(photos, params, settings(params, seed=1))
    assert sha256_tensors(different.tensors()) != sha256_tensors(one[0].tensors())


def test_the_global_random_state_is_neither_used_nor_changed(
    photos: tuple[Photos, Photos], params: Params
) -> None:
    one, _ = run(photos, params, settings(params))
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    other, _ = run(photos, params, settings(params))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert sha256_tensors(one.tensors()) == sha256_tensors(other.tensors())


@pytest.mark.parametrize("optimizer", ["muon", "sgd", "adamw", "adam", "rmsprop"])
@pytest.mark.parametrize(
    "changes",
    [
        {"ema_decay": 0.0},
        {"ema_decay": 0.9},
        {"schedule": "plateau", "plateau_patience": 1, "start_size": 0.5, "epochs": 5, "learning_rate": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_resumed_training_ends_with_the_same_bits(
    photos: tuple[Photos, Photos], params: Params, optimizer: str, changes: dict[str, object]
) -> None:
    train = settings(params, optimizer=optimizer, **changes)
    whole, records = run(photos, params, train)

    first = TrainingState.new(MODEL, train, CPU)
    broken_off = fit(first, *photos, train, params.augment)
    beginning = [next(broken_off), next(broken_off)]
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = TrainingState.new(MODEL, settings(params, optimizer=optimizer, seed=9, **changes), CPU)
    second.load(saved, epoch=2)
    second, rest = run(photos, params, train, second)

    assert results(beginning + rest) == results(records)
    assert sha256_tensors(second.tensors()) == sha256_tensors(whole.tensors())


@pytest.mark.parametrize(
    ("start", "growth", "step", "sizes"),
    [
        (1.0, 0.6, 16, [128] * 10),
        (0.5, 0.6, 16, [64, 80, 80, 96, 112, 112, 128, 128, 128, 128]),
        (0.5, 0.6, 32, [64, 64, 96, 96, 96, 128, 128, 128, 128, 128]),
        (0.5, 0.0, 16, [128] * 10),
        (0.5, 1.0, 16, [64, 64, 80, 80, 96, 96, 96, 112, 112, 128]),
        (0.1, 0.6, 32, [32, 32, 64, 64, 96, 96, 128, 128, 128, 128]),
    ],
)
def test_photos_grow_evenly_in_sizes_that_fit_the_network(
    params: Params, start: float, growth: float, step: int, sizes: list[int]
) -> None:
    train = settings(params, epochs=10, start_size=start, growth_fraction=growth)
    assert [training_size(train, epoch, 128, step) for epoch in range(1, 11)] == sizes


def test_a_training_uses_growing_photos(photos: tuple[Photos, Photos], params: Params) -> None:
    _, records = run(photos, params, settings(params, epochs=4, start_size=0.5, growth_fraction=0.75))
    assert [record.size_px for record in records] == [16, 20, 28, 32]


def test_a_plateau_lowers_the_rate(photos: tuple[Photos, Photos], params: Params) -> None:
    plateau = {"schedule": "plateau", "plateau_patience": 1, "warmup_fraction": 0.0, "learning_rate": 1e-9}
    _, records = run(photos, params, settings(params, epochs=6, ema_decay=0.0, **plateau))
    assert records[-1].learning_rate < records[0].learning_rate


def test_a_record_has_the_rate_losses_and_scores_of_its_epoch(
    photos: tuple[Photos, Photos], params: Params
) -> None:
    _, records = run(photos, params, settings(params, epochs=4, schedule="constant", warmup_fraction=0.0))
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert all(record.learning_rate == params.train.learning_rate for record in records)
    assert records[-1].train_loss < records[0].train_loss
    for record in records:
        assert 0 <= record.train_dice <= 1
        assert 0 <= record.val_dice <= 1
        assert record.images_per_s > 0


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"gradient_clip": 0.1}, {"loss": "dice"}])
def test_settings_affect_the_training(
    photos: tuple[Photos, Photos], params: Params, changes: dict[str, object]
) -> None:
    plain, _ = run(photos, params, settings(params, epochs=1))
    other, records = run(photos, params, settings(params, epochs=1, **changes))
    assert sha256_tensors(plain.tensors()) != sha256_tensors(other.tensors())
    assert math.isfinite(records[0].train_loss)
    assert other.tensors()["network/head.weight"].dtype == torch.float32


def test_a_loss_of_nan_stops_the_training_and_names_the_step(
    photos: tuple[Photos, Photos], params: Params
) -> None:
    train = settings(params, optimizer="sgd", learning_rate=1e30, warmup_fraction=0.0)
    with pytest.raises(NonFiniteLoss, match=r"epoch \d+, step \d of 3 is (nan|inf)"):
        run(photos, params, train)


def test_batches_have_each_photo_once_and_nearly_equal_sizes() -> None:
    batches = _batches(seed=0, epoch=1, n=275, steps=18)
    assert {len(rows) for rows in batches} == {15, 16}
    assert sorted(torch.cat(batches).tolist()) == list(range(275))
    again, later = _batches(0, 1, 275, 18), _batches(0, 2, 275, 18)
    assert torch.equal(torch.cat(batches), torch.cat(again))
    assert not torch.equal(torch.cat(batches), torch.cat(later))


def test_the_validation_dice_is_the_mean_of_both_outputs(
    photos: tuple[Photos, Photos], params: Params
) -> None:
    state, records = run(photos, params, settings(params, epochs=2))
    _, dice = validate(state.evaluated, photos[1], settings(params))
    assert dice.shape == (len(photos[1]), 2)
    last = records[-1]
    assert [last.val_dice_whole, last.val_dice_tight] == pytest.approx(dice.mean(axis=0))
    assert last.val_dice == (last.val_dice_whole + last.val_dice_tight) / 2


def test_the_masks_of_an_epoch_are_nested(photos: tuple[Photos, Photos], params: Params) -> None:
    state, _ = run(photos, params, settings(params, epochs=1))
    masks = predict_masks(state.evaluated, photos[1].images[:4])
    assert masks.shape == (4, 2, *photos[1].images.shape[1:3])
    assert not (masks[:, 1] & ~masks[:, 0]).any()


def test_without_a_border_both_outputs_learn_the_same_mask() -> None:
    whole, tight = masks_of_outputs(torch.tensor([[[1, 2], [2, 1]]]))[0]
    assert torch.equal(whole, tight)
    whole, tight = masks_of_outputs(torch.tensor([[[1, 2], [3, 1]]]))[0]
    assert whole.tolist() == [[1, 0], [1, 1]]
    assert tight.tolist() == [[1, 0], [0, 1]]
