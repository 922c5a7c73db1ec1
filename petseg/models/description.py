"""What lies beside weights, in JSON: which network they are of, and how its probability becomes a mask."""

from typing import Annotated, Any

from annotated_types import Ge, Le
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.params import Edge, Thresholds


class Described(TypedDict):
    """model.json; no ``outputs`` where the network has one."""

    model: dict[str, Any]  # as ModelParams
    image_size: Annotated[int, Ge(1), Le(2048)]
    outputs: NotRequired[list[Edge]]
    tensors_sha256: str
    run_key: NotRequired[str | None]


class Decision(TypedDict):
    """decision.json of a model in MLflow."""

    thresholds: Thresholds
    flip_average: bool
