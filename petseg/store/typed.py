"""The required form of each record of the store. It is checked on reading; further entries are allowed."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.core.checked import Count, Name, Share
from petseg.params import Boundary, Edge, Thresholds


def _beside(name: str) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError("does not lie beside it")
    return name


Kind = Literal["evaluations", "figures"]
Files = dict[Annotated[str, AfterValidator(_beside)], str]  # the sha256 of each


class Git(TypedDict):
    """The commit that is checked out, and whether the code differs from it."""

    commit: str | None
    dirty: bool | None


class Epoch(TypedDict):
    """The results of one epoch that the store itself reads; null means NaN."""

    epoch: Count
    val_dice: float | None


class Row(Epoch):
    """One line of a run's history."""

    elapsed_s: float
    size_px: NotRequired[Count]
    train_loss: NotRequired[float | None]
    val_loss: NotRequired[float | None]
    train_dice: NotRequired[float | None]
    val_dice_whole: NotRequired[float | None]
    val_dice_tight: NotRequired[float | None]
    learning_rate: NotRequired[float | None]
    images_per_s: NotRequired[float | None]


class _Training(TypedDict):
    """The entries that the manifest of a training has from its beginning."""

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
    photos: NotRequired[dict[str, Count]]
    shown_rows: NotRequired[list[Count]]
    parameters: NotRequired[Count]
    source: NotRequired[str]
    clone: NotRequired[str]


class Begun(_Training):
    """The manifest of a training that is running or was stopped."""

    best: NotRequired[Epoch]
    files: NotRequired[Files]


class Trained(_Training):
    """The manifest of a finished training."""

    finished: str
    best: Epoch
    tensors_sha256: str
    last_tensors_sha256: NotRequired[str]
    size_bytes: NotRequired[Count]
    files: Files
    sha256: NotRequired[str]


class Origin(TypedDict):
    """The origin of weights that were trained elsewhere."""

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
    size_bytes: NotRequired[Count]
    clone: NotRequired[str]
    files: Files
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
    files: Files
    sha256: NotRequired[str]


class Scores(TypedDict):
    """Scores under one boundary rule, of the model or of another kind of mask."""

    dice_per_image: NotRequired[float | None]
    dice_per_image_low: NotRequired[float | None]
    dice_per_image_high: NotRequired[float | None]
    iou_per_image: NotRequired[float | None]
    boundary_f_per_image: NotRequired[float | None]


class Headlines(Scores):
    """The main scores of an evaluation; ``thresholds`` is missing if the network has only one output."""

    threshold: Share
    thresholds: NotRequired[Thresholds]
    answers: NotRequired[dict[Boundary, Edge]]
    cleaned_masks: NotRequired[bool]
    boundary: NotRequired[Boundary]
    photos: NotRequired[Count]
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


class Recorded(TypedDict):
    """The description in a checkpoint: its epoch, and those before it."""

    run_key: str
    record: Row
    history: list[Row]


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
    """The marker, which shows that a store has a ledger: petseg.store.ledger."""

    format: int
    clone: Name
    root: str
    lines: Count
    last: str
    size: Count
    pending: NotRequired[Pending]


class Seen(TypedDict):
    """The length of another clone's part of the ledger, and the hash of its last line."""

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
    """One line of champions.jsonl, in a store from before the ledger."""

    when: str
    key: Name
    val_dice: float | None
    before: str | None
    forced: bool
    by: str
