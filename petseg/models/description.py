"""What lies beside weights, in JSON: which network they are of, and how its probability becomes a mask."""

from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.core.checked import read_record
from petseg.core.files import why_not
from petseg.errors import BrokenRecord, DamagedFile
from petseg.params import Edge, Thresholds


class Described(TypedDict):
    """model.json; no ``outputs`` where the network has one."""

    model: dict[str, Any]  # as ModelParams
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
