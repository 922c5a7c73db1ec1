"""The types of the JSON files beside weights: the description of a network, and the use of its output."""

from typing import Annotated, Any

from annotated_types import Ge, Le
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.params import Edge, Thresholds


class Described(TypedDict):
    """model.json; ``outputs`` is missing if the network has only one output."""

    model: dict[str, Any]  # the fields of ModelParams
    image_size: Annotated[int, Ge(1), Le(2048)]
    outputs: NotRequired[list[Edge]]
    tensors_sha256: str
    run_key: NotRequired[str | None]


class Decision(TypedDict):
    """decision.json of a model in MLflow."""

    thresholds: Thresholds
    flip_average: bool
