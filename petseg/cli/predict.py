"""``petseg predict``."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from petseg.cli.output import Answer
from petseg.core.formats import counted, duration
from petseg.core.project import expanded, main_root
from petseg.core.terminal import print_lines
from petseg.errors import UsageError
from petseg.params import Edge

if TYPE_CHECKING:
    from petseg.predict.load import Model
    from petseg.predict.photos import Photo, Summary

SOME_FAILED = 3

Photos = Annotated[
    list[str],
    typer.Argument(metavar="PHOTO|FOLDER|PATTERN...", help="A folder is searched with all its subfolders."),
]
Out = Annotated[Path, typer.Option(help="Folder for masks/, overlays/, cutouts/ and sheet.jpg.")]
Wanted = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-model",
        metavar="ID|champion|FILE",
        help="A run's key or its beginning, the champion, or a .safetensors file. Default: the champion, or "
        "else the run with the best validation Dice on the project's photos.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="A pixel with this probability or more is in the mask that --edge names. "
        "Default: the threshold that was chosen on validation photos."
    ),
]
WhichEdge = Annotated[
    Edge, typer.Option(help="tight: without the strip of unsure pixels around the pet; whole: with it.")
]
AsIs = Annotated[bool, typer.Option("--as-is", help="Keep small islands and holes in the masks.")]
TableFile = Annotated[
    Path | None,
    typer.Option("--csv", help="Also write a table with the size, coverage and confidence of each photo."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on after an interruption: keep existing files, make the others.")
]
AtOnce = Annotated[
    int,
    typer.Option(
        "--batch-size",
        "-batch_size",
        min=1,
        help="How many photos to work on at once; the masks do not depend on it.",
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]


def predict(
    photos: Photos,
    out: Out = Path("predicted"),
    wanted: Wanted = None,
    threshold: Threshold = None,
    edge: WhichEdge = "tight",
    as_is: AsIs = False,
    table: TableFile = None,
    strict: Strict = False,
    force: Force = False,
    resume: Resume = False,
    batch_size: AtOnce = 8,
    device: Device = "auto",
) -> Answer:
    """Cut the pets out of your own photos.

    Each photo gets a mask, an overlay and a cut-out. Photos can have any format that Pillow reads, or HEIC;
    they are turned upright by their EXIF orientation. A bad file is named and left out, and the exit code is
    then 3.
    """
    # Imported here because torch would slow down every other command.
    from petseg.pipeline.guard import check_kept_out
    from petseg.predict.photos import SHEET, SHEET_PHOTOS, Table, cut_out_all, find_photos

    out, table = expanded(out), expanded(table) if table else None
    check_kept_out("--out", out)
    _check(threshold, out, table)
    found = find_photos(photos, out)

    shown = set() if (out / SHEET).exists() else set(found[:SHEET_PHOTOS])  # a new sheet needs them
    todo = [photo for photo in found if not resume or photo in shown or not photo.is_done(out)]
    given = [*(photo.path for photo in found), *([expanded(wanted)] if wanted else [])]
    _check_targets(todo, out, table, given, resume, force)
    known = _known_rows(table, force) if table and resume else []
    model = _model(wanted, device, edge, threshold)
    with ExitStack() as stack:
        rows = stack.enter_context(closing(Table(table, todo, known))) if table else None
        summary = cut_out_all(
            todo, model, out, batch_size, strict=strict, replaces=force, clean=not as_is, table=rows
        )
    return _answer(summary, model, out, len(found), len(todo))


def _check(threshold: float | None, out: Path, table: Path | None) -> None:
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"--threshold {threshold:g}: must be above 0, and 1 at the most")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: must be a folder")
    if table and table.is_dir():
        raise UsageError(f"--csv {table}: must be a file")


def _check_targets(
    todo: "Sequence[Photo]", out: Path, table: Path | None, given: Sequence[Path], resume: bool, force: bool
) -> None:
    """Check that each file may be written: it is not an input, and does not exist already."""
    from petseg.cli.targets import check_not_read, check_targets
    from petseg.pipeline.guard import check_apart
    from petseg.predict.photos import SHEET

    pictures = [out / SHEET, *(path for photo in todo for path in photo.outputs(out).values())]
    check_apart([("--out", path) for path in pictures] + ([("--csv", table)] if table else []))
    if resume and not force:  # existing files are kept
        pictures = [path for path in pictures if not path.exists()]
    check_targets("--out", *pictures, force=True)
    check_not_read("--out", pictures, given)
    if table:
        check_targets("--csv", table, force=True)
        check_not_read("--csv", [table], given)
    if not resume and not force:
        _refuse_to_overwrite([*([table] if table else []), *pictures])


def _refuse_to_overwrite(paths: list[Path]) -> None:
    there = [path for path in paths if os.path.lexists(path)]
    if there:
        others = f" and {counted(len(there) - 1, 'more file')} are" if len(there) > 1 else " is"
        raise UsageError(
            f"{there[0]}{others} there already; --force replaces, --resume goes on, --out DIR goes elsewhere"
        )


def _known_rows(table: Path, force: bool) -> list[dict[str, str]]:
    """Return the rows of the table; none if it is another program's table that may be replaced."""
    from petseg.predict.photos import rows_of

    try:
        return rows_of(table)
    except UsageError:
        if not force:
            raise
        return []


def _model(wanted: str | None, device: str, edge: Edge, threshold: float | None) -> "Model":
    from petseg.models.device import set_up_torch
    from petseg.predict.load import choose

    model = choose(main_root(), wanted, set_up_torch(device, threads=1)).shown_as(edge, threshold)
    if threshold is None and not model.decided:
        print_lines(
            f"note: infer has chosen no threshold for {model.name}; {model.threshold:g} is used", err=True
        )
    return model


def _answer(summary: "Summary", model: "Model", out: Path, found: int, todo: int) -> Answer:
    facts = {"out": str(out), "model": model.name, "edge": model.edge, "threshold": model.threshold}
    facts |= {"found": found, "done": summary.done, "failed": summary.failed, "empty": summary.empty}
    facts["seconds"] = summary.seconds
    line = (
        f"{counted(summary.done, 'photo')} cut out in {duration(summary.seconds)}, "
        f"{summary.done / summary.seconds:.1f} photos/s, by {model.name}, "
        f"{model.edge} masks, threshold {model.threshold:g}: {out}/"
        + (f"; already done: {found - todo}" if todo < found else "")
        + (f"; empty masks: {len(summary.empty)}" if summary.empty else "")
        + (f"; bad files: {len(summary.failed)}" if summary.failed else "")
    )
    return Answer(facts, [line], SOME_FAILED if summary.failed else 0)
