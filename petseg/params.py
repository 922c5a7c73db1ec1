"""params.yaml as typed, frozen values.

This module defines the keys, their types and their ranges. It has no defaults: they are the values
in params.yaml itself. It does not import torch.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from petseg.core.checked import Share
from petseg.core.textfiles import printable, read_yaml
from petseg.core.urls import has_secrets, without_secrets
from petseg.errors import ParamsError, SecretInParams

_RESNET34_HALVINGS = 5
_TOO_MANY = 2**31
_SECRET = (
    "is a URL with a user, a password or a query, and params are recorded; put user and password into "
    "~/.netrc, and download by hand what needs a query; petseg has not stored the URL: remove it from"
)

Boundary = Literal["foreground", "background", "ignore"]
Edge = Literal["whole", "tight"]  # where a mask ends: outside the border strip, or inside it
OUTPUTS: tuple[Edge, ...] = get_args(Edge)  # the outputs of a network, in this order
Masks = Literal["trimap", "binary_255", "binary_1"]


class Thresholds(TypedDict):
    """The probability from which a pixel belongs to each mask, as files store it."""

    whole: Share
    tight: Share


Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=_TOO_MANY)]


class Section(BaseModel):
    """One section of params.yaml. Unknown keys, wrong types, nan and inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _fits_32_bits(cls, value: object) -> object:
        if isinstance(value, int) and value >= _TOO_MANY:
            raise ValueError(f"must be less than {_TOO_MANY}")
        return value


Place = Annotated[str, Field(min_length=1)]


class DataParams(Section):
    source: Place
    masks: Masks
    image_size: Annotated[int, Field(ge=16, le=2048)]
    boundary: Boundary
    max_rejected: Fraction


class SplitParams(Section):
    seed: Seed
    test_fraction: Annotated[float, Field(gt=0, lt=1)]
    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    folds: Annotated[int, Field(ge=2)] | None
    fold: Annotated[int, Field(ge=0)] | None


class ModelParams(Section):
    name: Literal["unet", "resnet34_unet"]
    width: Annotated[int, Field(ge=1, le=1024)]
    depth: Annotated[int, Field(ge=1, le=8)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    encoder_weights: Place


class TrainParams(Section):
    seed: Seed
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]  # batch norm can't compute a variance from one photo
    learning_rate: Annotated[float, Field(gt=0)]
    optimizer: Literal["muon", "sgd", "adamw", "adam", "rmsprop"]
    weight_decay: NonNegative
    schedule: Literal["constant", "cosine", "onecycle", "plateau"]
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    plateau_patience: Count
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    loss: Literal["bce", "dice", "bce_dice", "focal", "tversky"]
    gradient_clip: Annotated[float, Field(gt=0)] | None
    ema_decay: Annotated[float, Field(ge=0, lt=1)]
    early_stopping_patience: Count | None
    start_size: Annotated[float, Field(gt=0, le=1)]
    growth_fraction: Fraction
    precision: Literal["fp32", "bf16"]
    device: Literal["auto", "cpu", "cuda"]
    threads: Annotated[int, Field(ge=1, le=1024)]


class AugmentParams(Section):
    flip: Fraction
    scale: Annotated[float, Field(ge=0, lt=1)]
    aspect: Annotated[float, Field(ge=0, le=4)]
    rotate_deg: Annotated[float, Field(ge=0, le=180)]
    translate: Annotated[float, Field(ge=0, lt=1)]
    brightness: Annotated[float, Field(ge=0, lt=1)]
    contrast: Annotated[float, Field(ge=0, lt=1)]
    saturation: Fraction
    paste: Fraction


def _threshold(value: object) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    raise ValueError("must be auto, or a number between 0 and 1")


class InferParams(Section):
    threshold: Annotated[float | Literal["auto"], PlainValidator(_threshold)]
    flip_average: bool
    clean: bool
    batch_size: Count


def _increasing(epochs: tuple[int, ...]) -> tuple[int, ...]:
    if list(epochs) != sorted(set(epochs)):
        raise ValueError("must be increasing")
    return epochs


class PlotParams(Section):
    evolution_epochs: Annotated[
        tuple[Count, ...], Field(strict=False, min_length=1), AfterValidator(_increasing)
    ]
    examples: Annotated[int, Field(ge=1, le=12)]


class Params(Section):
    """All of params.yaml."""

    data: DataParams
    split: SplitParams
    model: ModelParams
    train: TrainParams
    augment: AugmentParams
    infer: InferParams
    plot: PlotParams


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check all of params.yaml, even if a stage needs only a part of it.

    Raises:
        ParamsError: one line for each mistake, with the key, its value and what is allowed.
    """
    return check_params(read_yaml(path), path.name)


def check_params(values: Any, name: str = "params.yaml") -> Params:
    """Check all values of params.yaml, as they were read or with some of them replaced.

    Raises:
        ParamsError: see ``load_params``.
        SecretInParams: a URL may hold a secret; then no other mistake is reported.
    """
    if not isinstance(values, dict):
        raise ParamsError(f"{name}: must hold sections, such as 'train:'")
    if secrets := list(_secrets(values)):
        raise SecretInParams(*(f"{name}: {key}: {_SECRET} {name}" for key in secrets))
    mistakes = list(_mistakes_between_keys(values))
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        mistakes = [_explain(details) for details in error.errors()] + mistakes
    if mistakes:
        raise ParamsError(*(f"{name}: {mistake}" for mistake in mistakes))
    return params


def _secrets(values: Any, key: str = "") -> Iterator[str]:
    """Yield the keys whose values are URLs that may hold a secret."""
    if isinstance(values, dict):
        for name, value in values.items():
            if has_secrets(str(name)):
                yield f"{key}a key"
            else:
                yield from _secrets(value, f"{key}{printable(name)}.")
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _secrets(value, key)
    elif isinstance(values, str) and has_secrets(values):
        yield key.removesuffix(".")


def _mistakes_between_keys(values: dict[str, Any]) -> Iterator[str]:
    """Yield the mistakes that concern several keys; values of a wrong type are skipped here."""

    def number(section: str, key: str) -> int | None:
        value = (values.get(section) or {}).get(key) if isinstance(values.get(section), dict) else None
        return value if isinstance(value, int) else None

    size, depth = number("data", "image_size"), number("model", "depth")
    model = values["model"] if isinstance(values.get("model"), dict) else {}
    name = model.get("name")
    cause = "model.name is resnet34_unet" if name == "resnet34_unet" else f"model.depth is {depth}"
    halvings = _RESNET34_HALVINGS if name == "resnet34_unet" else depth
    if size is not None and halvings is not None and 0 < halvings <= 8 and size % 2**halvings:
        yield (
            f"data.image_size: {size} must be a multiple of {2**halvings}, "
            f"because {cause} and each level halves the image"
        )
    if name == "unet" and model.get("encoder_weights", "none") != "none":
        weights = without_secrets(printable(model["encoder_weights"]))
        yield (
            f"model.encoder_weights: {weights:.80} is for model.name resnet34_unet; "
            "a unet begins with random weights: none"
        )
    folds, fold = number("split", "folds"), number("split", "fold")
    if (folds is None) != (fold is None):
        yield "split: folds and fold must both be null or both be numbers"
    elif folds is not None and fold is not None and fold >= folds:
        yield f"split.fold: {fold} must be less than split.folds ({folds}); it counts from 0"


def flatten(params: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return params as one flat dict, ``{"train.epochs": 60, ...}``, in the order of the file."""
    flat: dict[str, Any] = {}
    for name, value in params:
        if isinstance(value, BaseModel):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def flat(**sections: BaseModel | object) -> dict[str, object]:
    """Return sections of the params, or single values under ``section__key``, as one flat dict."""
    result: dict[str, object] = {}
    for name, value in sections.items():
        if isinstance(value, BaseModel):
            result |= flatten(value, f"{name}.")
        else:
            result[name.replace("__", ".")] = value
    return result


def _explain(details: ErrorDetails) -> str:
    key = printable(".".join(str(part) for part in details["loc"]))
    kind, value = details["type"], details["input"]
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_did_you_mean(details['loc'])}"
    if kind == "missing":
        return f"{key}: is missing"
    if kind in ("model_type", "model_attributes_type"):
        return f"{key}: must be a section with keys of its own"
    return f"{key}: {without_secrets(repr(value)):.80} {message}"


def _did_you_mean(loc: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = Params
    for part in loc[:-1]:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type)  # a section: only sections have keys
        model = annotation
    close = difflib.get_close_matches(str(loc[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f" (known: {', '.join(model.model_fields)})"
