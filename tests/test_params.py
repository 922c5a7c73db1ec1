from pathlib import Path
from typing import Any, get_args

import pytest

from petseg.core.textfiles import read_yaml
from petseg.errors import ParamsError, SecretInParams
from petseg.models.networks import MODELS
from petseg.params import ModelParams, Params, TrainParams, check_params, flatten, load_params
from petseg.training.losses import LOSSES
from petseg.training.optim import OPTIMIZERS, SCHEDULES
from tests.support import ROOT

TEXT = (ROOT / "params.yaml").read_text()


def with_line(tmp_path: Path, old: str, new: str) -> Path:
    assert old in TEXT
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate: 5.0e-2", "learning_rate: -0.1", "train.learning_rate: -0.1 must be greater than 0"),
        ("learning_rate: 5.0e-2", "learning_rate: .nan", "train.learning_rate: nan must be a finite number"),
        ("learning_rate: 5.0e-2", "learning_rate: .inf", "train.learning_rate: inf must be a finite number"),
        ("learning_rate: 5.0e-2", "learning_rate: abc", "train.learning_rate: 'abc' must be a valid number"),
        ("learning_rate: 5.0e-2", "learning_rat: 1e-3", "train.learning_rat: unknown key; did you mean lear"),
        ("learning_rate: 5.0e-2", "learning_rat: 1e-3", "train.learning_rate: is missing"),
        ("epochs: 50", "epochs: 1.5", "train.epochs: 1.5 must be a valid integer"),
        ("epochs: 50", "epochs: true", "train.epochs: True must be a valid integer"),
        ("epochs: 50", "epochs: 0", "train.epochs: 0 must be greater than or equal to 1"),
        (
            "optimizer: muon",
            "optimizer: adm",
            "train.optimizer: 'adm' must be 'muon', 'sgd', 'adamw'",
        ),
        ("boundary: foreground", "boundary: no", "data.boundary: 'no' must be 'foreground', 'background' or"),
        (
            "masks: trimap",
            "masks: binary",
            "data.masks: 'binary' must be 'trimap', 'binary_255' or",
        ),
        ("test_fraction: 0.2", "test_fraction: 1.0", "split.test_fraction: 1.0 must be less than 1"),
        ("image_size: 128", "image_size: 100", "data.image_size: 100 must be a multiple of"),
        ("folds: null", "folds: 5", "split: folds and fold must both be null or both be numbers"),
        ("fold: null ", "fold: 1 ", "split: folds and fold must both be null or both be numbers"),
        ("threshold: auto", "threshold: 1.5", "infer.threshold: 1.5 must be auto, or a number between"),
        ("epochs: [1, 2,", "epochs: [2, 1,", "plot.evolution_epochs: [2, 1, 5, 10, 20, 35, 50] must be inc"),
        ("split:\n", "spilt:\n", "spilt: unknown key; did you mean split?"),
        ("flip: 0.5", "flip: 1.5", "augment.flip: 1.5 must be less than or equal to 1"),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_params(with_line(tmp_path, old, new))
    assert f"params.yaml: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("old", "key", "url"),
    [
        ("source: sample ", "source", "https://someone:geheim@server/pets"),
        ("source: sample ", "source", "http://geheim@server/pets"),
        ("source: sample ", "source", "https://server/pets?token=geheim"),
        ("source: sample ", "source", "'https://some:ge?heim@server/geheim@x'"),
        ("encoder_weights: none ", "encoder_weights", "https://someone:geheim@server/w.pth"),
        ("loss: bce_dice ", "loss", "https://someone:geheim@server"),
        ("source: sample ", "source", "http://someone:geheim@server/: [not YAML"),
    ],
)
def test_a_url_with_a_secret_is_refused_without_it(tmp_path: Path, old: str, key: str, url: str) -> None:
    with pytest.raises(ParamsError) as error:
        load_params(with_line(tmp_path, old, f"{key}: {url} "))
    assert "geheim" not in str(error.value)
    if "YAML" not in url:
        assert "put user and password into ~/.netrc" in str(error.value)


def test_no_message_repeats_a_url_with_a_secret(tmp_path: Path) -> None:
    url = "https://someone:geheim@server"
    with pytest.raises(SecretInParams) as error:
        check_params({"a": [{"b": url}], url: 1, "train": {url: url}, "\x1b": url})
    assert "geheim" not in str(error.value)
    assert [line.split(": ")[1] for line in error.value.lines] == ["a.b", "a key", "train.a key", r"\x1b"]


def test_all_mistakes_are_in_one_message(tmp_path: Path) -> None:
    path = with_line(tmp_path, "epochs: 50", "epochs: -1\n  epoch: 3")
    path.write_text(path.read_text().replace("flip: 0.5", "flip: x"))
    with pytest.raises(ParamsError) as error:
        load_params(path)
    keys = {line.split(": ")[1] for line in str(error.value).splitlines()}
    assert keys == {"train.epochs", "train.epoch", "augment.flip"}
    path.write_text(
        path.read_text().replace("image_size: 128", "image_size: 100").replace("folds: null", "folds: 5")
    )
    with pytest.raises(ParamsError) as error:
        load_params(path)
    keys |= {"data.image_size", "split"}
    assert {line.split(": ")[1] for line in str(error.value).splitlines()} == keys


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("3e-05", 3e-5), ("1E-3", 1e-3), ("1", 1.0)])
def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path, text: str, value: float) -> None:
    path = with_line(tmp_path, "learning_rate: 5.0e-2", f"learning_rate: {text}")
    assert load_params(path).train.learning_rate == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("train: {epochs: 1}\ntrain: {epochs: 2}", "train: is there twice"),
        ("just words", "must hold sections"),
        ("", "must hold sections"),
    ],
)
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message) as error:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_an_absent_params_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file"):
        load_params(tmp_path / "params.yaml")


def test_flat_names_are_those_of_the_file(params: Params) -> None:
    def keys(values: Any, prefix: str = "") -> list[str]:
        if not isinstance(values, dict):
            return [prefix.removesuffix(".")]
        return [key for name, value in values.items() for key in keys(value, f"{prefix}{name}.")]

    assert list(flatten(params)) == keys(read_yaml(ROOT / "params.yaml"))


@pytest.mark.parametrize(
    ("section", "field", "registry"),
    [
        (ModelParams, "name", MODELS),
        (TrainParams, "loss", LOSSES),
        (TrainParams, "optimizer", OPTIMIZERS),
        (TrainParams, "schedule", SCHEDULES),
    ],
)
def test_the_choices_are_the_keys_of_the_registries(
    section: Any, field: str, registry: dict[str, object]
) -> None:
    assert list(get_args(section.model_fields[field].annotation)) == list(registry)
