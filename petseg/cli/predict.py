"""``petseg predict``."""

import sys
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from petseg.errors import UsageError

SOME_FAILED = 3


def predict(
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO|FOLDER|PATTERN...", help="A folder with all below it.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks/, overlays/, cutouts/ and sheet.jpg.")] = Path(
        "predicted"
    ),
    wanted: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-model",
            metavar="ID|champion|FILE",
            help="A run's key or its beginning, the champion, or a .safetensors file; else the champion, or "
            "what was trained last.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="From which probability a pixel is pet; else as validation chose.",
        ),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Also a table: size, coverage, confidence of each photo.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad file.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was broken off: what is there stays.")
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", "-batch_size", min=1, help="Photos in work at once; changes no bit of a mask."
        ),
    ] = 8,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON at the end.")] = False,
) -> None:
    """Cut the pets out of your own photos.

    Of each a mask, an overlay and a cut-out. Any format that Pillow reads, and HEIC; turned upright as the
    camera says. A bad file is named and left out, and the exit code is then 3.
    """
    from petseg.core.formats import duration
    from petseg.core.project import main_root
    from petseg.core.textfiles import to_json
    from petseg.models.device import set_up_torch
    from petseg.predict.load import choose  # not above: torch would slow down every other command
    from petseg.predict.photos import SHEET, Table, cut_out_all, find_photos

    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(f"--threshold {threshold:g}: must be above 0, and 1 at the most")
    for option, path, wrong in (("--out", out, out.is_file()), ("--csv", table, table and table.is_dir())):
        if wrong:
            raise UsageError(f"{option} {path}: must be a {'folder' if option == '--out' else 'file'}")
    found = find_photos(photos, out)
    todo = [photo for photo in found if not (resume and photo.is_done(out))]
    if not resume and not force:
        pictures = (path for photo in todo for path in photo.outputs(out).values())
        _refuse_to_overwrite([*([table] if table else []), out / SHEET, *pictures])
    model = choose(main_root(), wanted, set_up_torch(device, threads=1))
    if threshold is not None:
        model = replace(model, threshold=threshold)
    elif not model.decided:
        print(f"note: infer has chosen no threshold for {model.name}: {model.threshold:g}", file=sys.stderr)
    with ExitStack() as stack:
        rows = stack.enter_context(closing(Table(table, todo, goes_on=resume))) if table else None
        summary = cut_out_all(todo, model, out, batch_size, strict=strict, replaces=force, table=rows)
    if as_json:
        told = {"out": str(out), "model": model.name, "threshold": model.threshold, "found": len(found)}
        told |= {"done": summary.done, "failed": summary.failed, "empty": summary.empty}
        print(to_json(told | {"seconds": summary.seconds}), end="")
    else:
        print(
            f"{summary.done} photos cut out in {duration(summary.seconds)}, "
            f"{summary.done / summary.seconds:.1f} photos/s, by {model.name}, "
            f"threshold {model.threshold:g}: {out}/"
            + (f"; {len(found) - len(todo)} were there" if len(todo) < len(found) else "")
            + (f"; empty masks: {len(summary.empty)}" if summary.empty else "")
            + (f"; bad files: {len(summary.failed)}" if summary.failed else "")
        )
    raise typer.Exit(SOME_FAILED if summary.failed else 0)


def _refuse_to_overwrite(paths: list[Path]) -> None:
    there = [path for path in paths if path.exists()]
    if there:
        others = f" and {len(there) - 1} more files are" if len(there) > 1 else " is"
        raise UsageError(
            f"{there[0]}{others} there already; --force replaces, --resume goes on, --out DIR goes elsewhere"
        )
