"""What each record of the store must hold, by type; more may stand in it. Checked whenever one is read.

A record stays a plain dict, byte for byte what its seal was made of.
"""

from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from annotated_types import Ge, Le, Predicate
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.errors import BrokenRecord
from petseg.params import Boundary, Edge

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import TypeAdapter

T = TypeVar("T")
Name = Annotated[str, Predicate(str.isalnum)]  # of a folder of the store: it leads nowhere else
Count = Annotated[int, Ge(0), Le(1 << 62)]
Kind = Literal["evaluations", "figures"]


class Git(TypedDict):
    """The commit that is checked out, and whether the code differs from it."""

    commit: str | None
    dirty: bool | None


class Epoch(TypedDict):
    """What one epoch gave, as far as the store itself reads it; null is NaN."""

    epoch: int
    val_dice: float | None


class Row(Epoch):
    """One line of a run's history."""

    elapsed_s: float
    train_loss: NotRequired[float | None]
    val_loss: NotRequired[float | None]
    train_dice: NotRequired[float | None]
    val_dice_whole: NotRequired[float | None]
    val_dice_tight: NotRequired[float | None]
    learning_rate: NotRequired[float | None]
    images_per_s: NotRequired[float | None]


class _Training(TypedDict):
    """What the manifest of a training says from its beginning."""

    format: int
    status: str
    created: str
    uid: NotRequired[str]
    params: dict[str, Any]
    data: NotRequired[dict[str, Any]]
    split: NotRequired[dict[str, Any]]
    data_sha256: str
    photos_sha256: NotRequired[str]
    code_sha256: NotRequired[str]
    environment: dict[str, str | int]
    git: Git
    dvc_experiment: NotRequired[str | None]
    photos: NotRequired[dict[str, int]]
    shown_rows: NotRequired[list[int]]
    parameters: NotRequired[int]
    source: NotRequired[str]
    clone: NotRequired[str]


class Begun(_Training):
    """The manifest of a training that goes on, or was stopped."""

    best: NotRequired[Epoch]
    files: NotRequired[dict[str, str]]


class Trained(_Training):
    """The manifest of a finished training."""

    finished: str
    best: Epoch
    tensors_sha256: str
    last_tensors_sha256: NotRequired[str]
    size_bytes: NotRequired[int]
    files: dict[str, str]
    sha256: NotRequired[str]


class Origin(TypedDict):
    """Where weights came from that were trained elsewhere."""

    file: str
    note: str
    claims: NotRequired[Any]
    unreadable: NotRequired[str]


class Adopted(TypedDict):
    """The manifest of weights that were trained elsewhere."""

    format: int
    status: Literal["finished"]
    created: str
    adopted: Origin
    uid: NotRequired[str]
    params: NotRequired[dict[str, Any]]
    data: NotRequired[dict[str, Any]]
    split: NotRequired[dict[str, Any]]
    data_sha256: NotRequired[str]
    git: NotRequired[Git]
    best: NotRequired[Epoch]
    tensors_sha256: NotRequired[str]
    size_bytes: NotRequired[int]
    clone: NotRequired[str]
    files: dict[str, str]
    sha256: NotRequired[str]


class Added(TypedDict):
    """The record of an evaluation or of a set of figures."""

    created: str
    started: NotRequired[str]
    settings: NotRequired[dict[str, Any]]
    data_sha256: NotRequired[str]
    code_sha256: NotRequired[str]
    git: NotRequired[Git]
    dvc_experiment: NotRequired[str | None]
    clone: NotRequired[str]
    files: dict[str, str]
    sha256: NotRequired[str]


class Scores(TypedDict):
    """Scores under the rule in use, of the model or of another answer."""

    dice_per_image: NotRequired[float | None]
    dice_per_image_low: NotRequired[float | None]
    dice_per_image_high: NotRequired[float | None]
    iou_per_image: NotRequired[float | None]
    boundary_f_per_image: NotRequired[float | None]


class Headlines(Scores):
    """The scores that matter, of an evaluation; no ``thresholds`` where the network has one output."""

    threshold: float
    thresholds: NotRequired[dict[Edge, float]]
    answers: NotRequired[dict[Boundary, Edge]]
    cleaned_masks: NotRequired[bool]
    boundary: NotRequired[str]
    photos: NotRequired[int]
    own_resolution: NotRequired[Scores]
    mean_mask: NotRequired[Scores]
    all_foreground: NotRequired[Scores]
    boundary_foreground: NotRequired[Scores]
    boundary_background: NotRequired[Scores]
    boundary_ignore: NotRequired[Scores]
    as_is: NotRequired[Scores]
    cleaned: NotRequired[Scores]
    own_resolution_as_is: NotRequired[Scores]
    own_resolution_cleaned: NotRequired[Scores]


class Pending(TypedDict):
    """A change of the store that has begun."""

    event: str
    run: Name
    kind: NotRequired[Kind]
    key: NotRequired[Name]
    file: NotRequired[str]
    sha256: NotRequired[str]
    why: NotRequired[str]


class Marker(TypedDict):
    """What says that a store has a ledger: petseg.store.ledger."""

    format: int
    clone: Name
    root: str
    lines: Count
    last: str
    size: Count
    pending: NotRequired[Pending]


class Seen(TypedDict):
    """How long another clone's part of the ledger was, and the hash of its last line."""

    lines: Count
    last: str


class Line(TypedDict):
    """One line of the ledger."""

    at: str
    by: str
    event: str
    run: NotRequired[Name]
    kind: NotRequired[Kind]
    key: NotRequired[Name]
    seal: NotRequired[str | None]
    file: NotRequired[str]
    sha256: NotRequired[str]
    why: NotRequired[str]
    val_dice: NotRequired[float | None]
    replaced: NotRequired[str | None]
    forced: NotRequired[bool]
    others: NotRequired[dict[Name, Seen]]
    before: str


class EarlierPromotion(TypedDict):
    """One line of champions.jsonl, which stores had before they had a ledger."""

    when: str
    key: Name
    val_dice: float | None
    before: str | None
    forced: bool
    by: str


def checked(record: object, form: type[T], where: "Path | str") -> T:
    """Return a record once it is what it must be.

    Args:
        record: what was read.
        form: one of the types above.
        where: it was read from.

    Raises:
        BrokenRecord: it is not; the text names the first entry that is wrong.
    """
    from pydantic import ValidationError  # not above: the command's help would wait for it

    try:
        _adapter(cast(Any, form)).validate_python(record, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BrokenRecord(f"{where}: {place + ': ' if place else ''}{first['msg'][:120]}") from None
    entries = cast("dict[str, Any]", record)
    if "kind" in entries and "key" not in entries and form is Line:
        raise BrokenRecord(f"{where}: names a kind and no key")
    files = entries.get("files", {})
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BrokenRecord(f"{where}: files: {name!r} does not lie beside it")
    return cast(T, record)


@cache
def _adapter(form: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(form)
