"""The types of the JSON files beside weights: the description of a network, and the use of its output."""

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.core.checked import read_record
from petseg.core.files import why_not
from petseg.errors import BrokenRecord, DamagedFile
from petseg.params import Edge, Thresholds


class Described(TypedDict):
    """model.json; ``outputs`` is missing if the network has only one output."""

    model: dict[str, Any]  # the fields of ModelParams
    image_size: Annotated[int, Ge(1), Le(2048)]
    outputs: NotRequired[list[Edge]]
    tensors_sha256: str
    run_key: NotRequired[str | None]


class Decision(TypedDict):
    """decision.json of a model in MLflow, or in a folder that was exported."""

    thresholds: Thresholds
    flip_average: bool


def read_decision(path: Path) -> Decision:
    """Read decision.json.

    Raises:
        DamagedFile: it can't be read, or is not what it must be.
    """
    try:
        return read_record(path, Decision)
    except (OSError, BrokenRecord) as error:
        raise DamagedFile(f"{path}: holds no decision of infer's ({why_not(error)})") from None
