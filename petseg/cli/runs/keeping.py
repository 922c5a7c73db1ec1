"""``petseg runs restore``, ``verify``, ``reproduce``, ``adopt``, ``export``: copy and check weights."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from petseg.cli.output import Answer
from petseg.cli.runs.find import Id, found_run, store_folder
from petseg.cli.showing import Force
from petseg.cli.targets import check_targets, regular_file
from petseg.core.files import remove_leftovers_of
from petseg.core.formats import counted, size
from petseg.core.project import expanded, main_root
from petseg.errors import UsageError
from petseg.pipeline.dvcfiles import stage_paths
from petseg.pipeline.guard import check_kept_out
from petseg.store.layout import ABOUT, ORIGINAL, WEIGHTS
from petseg.store.ledger import changing
from petseg.store.runs import holder_of

if TYPE_CHECKING:
    from petseg.predict.onnx import Export


def restore(
    run: Id,
    to: Annotated[
        Path | None,
        typer.Option(help=f"The file to write; the description goes beside it. Default: models/{WEIGHTS}."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an existing file, even weights that no run has."),
    ] = False,
) -> Answer:
    """Get a run's weights back, byte for byte."""
    found = found_run(run)
    target = expanded(to) if to else stage_paths(main_root(), "train")["weights"]
    stored, weights = found.manifest.get("files", {}), WEIGHTS
    if target.suffix != ".safetensors":  # the file of adopted weights may have had another suffix
        weights = f"{ORIGINAL}{target.suffix}"
        if weights not in stored or not target.name:
            raise UsageError(f"--to {to}: must end in .safetensors")
    about = target.with_suffix(".json")
    files = {weights: target} | ({ABOUT: about} if ABOUT in stored else {})
    if to:
        check_targets("--to", *files.values(), force=force)
        found.export(files)
    else:
        check_kept_out("", target.parent)
        with changing(store_folder()):  # so that no process writes between the check and the copy
            for path in () if force else files.values():
                _check_known(path)
            remove_leftovers_of(files.values())
            found.export(files)
    described = (
        f", their description in {about}" if ABOUT in files else "; the store has no description of them"
    )
    facts = {"run": found.key, "weights": str(target), "about": str(about) if ABOUT in files else None}
    return Answer(facts, [f"run {found.key}: its weights are in {target}{described}"])


def _check_known(path: Path) -> None:
    """Check that replacing a file loses nothing: it does not exist, or a run of the store has it.

    Raises:
        UsageError: no run has the file.
    """
    if not os.path.lexists(path) or (path.is_file() and holder_of(store_folder(), path)):
        return
    raise UsageError(
        f"{path}: no run has these weights; petseg runs adopt {path} keeps them; "
        "--force replaces them for ever"
    )


def verify(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="The runs to verify. Default: all.")
    ] = None,
    heal: Annotated[
        bool,
        typer.Option(
            "--heal",
            help="Put damaged files back from DVC's or MLflow's copies; begin a new ledger if it is broken.",
        ),
    ] = False,
) -> Answer:
    """Hash the store's files again, and DVC's and MLflow's copies, and compare them with the ledger.

    The command names each file, record and run that is gone or differs; the exit code is then 1.
    """
    from petseg.store.verify import verify as verify_store
    from petseg.tracking.queries import weights_in_mlflow

    chosen = [found_run(run) for run in runs] if runs else None
    report = verify_store(main_root(), chosen, weights_in_mlflow, heal)
    checked = ", ".join(f"{counted(count, 'file')} in {where}" for where, count in report.files.items())
    verdict = f"{counted(report.runs, 'run')}: {checked}; {len(report.damages) or 'none'} differ"
    return Answer(vars(report), [*report.healed, *report.damages, verdict], 1 if report.damages else 0)


def reproduce(run: Id) -> Answer:
    """Train a run again from its commit, params and data in a separate folder; exit with 1 if it differs."""
    from petseg.store.reproduce import reproduce as train_again

    found = found_run(run)
    result = train_again(found, main_root())
    line = f"run {found.key}: identical, to the last bit of every tensor"
    if not result.identical:
        tensors = counted(len(result.tensors), "tensor")
        line = f"run {found.key}: not identical in {tensors}; the first is {result.tensors[0]}"
    differing = [f"  differs: {line}" for line in (*result.inputs, *result.environment)]
    facts = vars(result) | {"identical": result.identical}
    return Answer(facts, [line, *differing], 0 if result.identical else 1)


def adopt(
    file: Annotated[Path, typer.Argument(help="Weights: safetensors, or a state dict by torch.save.")],
    note: Annotated[str, typer.Option(help="A note about the weights.")] = "adopted by hand",
) -> Answer:
    """Take weights that were trained elsewhere into the store, byte for byte, with a note."""
    file = regular_file(expanded(file))
    from petseg.store.adopt import adopt as adopt_file

    run, is_new = adopt_file(file, store_folder(), note)
    unreadable = run.manifest["adopted"].get("unreadable") if run.adopted else None
    line = f"{file}: {'kept as' if is_new else 'is kept already, byte for byte, by'} run {run.key}"
    line += f"; {unreadable}" if unreadable else ""
    return Answer({"run": run.key, "is_new": is_new, "manifest": run.manifest}, [line])


def export(
    run: Id,
    onnx: Annotated[
        Path | None,
        typer.Option(help="A file to write: photos of any size in, both outputs' probabilities out."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="A folder to write, for petseg.load: weights, description, thresholds, card."),
    ] = None,
    force: Force = False,
) -> Answer:
    """Export a run to ONNX, or to a folder that petseg.load takes.

    The ONNX file includes preprocessing and sigmoid. It is written after comparing its result with torch's.
    """
    if (onnx is None) == (model is None):
        raise UsageError("one of --onnx FILE and --model FOLDER is needed")
    if model is not None:
        return _export_folder(run, expanded(model), force)
    assert onnx is not None
    target = expanded(onnx)
    if target.suffix != ".onnx":
        raise UsageError(f"--onnx {onnx}: must end in .onnx")
    check_targets("--onnx", target, force=force)
    found = found_run(run)
    from petseg.data.arrays import PetArrays
    from petseg.predict.onnx import export_onnx

    photos = stage_paths(main_root(), "train")["arrays"]
    made = export_onnx(found, PetArrays.open(photos) if photos.is_dir() else None, target)
    return Answer(vars(made) | {"path": str(made.path), "run": found.key}, _exported(found.key, made))


def _export_folder(run: str, folder: Path, force: bool) -> Answer:
    from petseg.store.champion import champion
    from petseg.store.export import FILES, export_folder

    if run == "champion":
        today = champion(store_folder())
        if today is None:
            raise UsageError("there is no champion yet; petseg runs promote ID makes one")
        run = today
    check_targets("--model", *(folder / name for name in FILES), force=force)
    found = found_run(run)
    export_folder(found, folder)
    facts = {"run": found.key, "folder": str(folder), "files": list(FILES)}
    return Answer(facts, [f"run {found.key}: {', '.join(FILES)} are in {folder}/"])


def _exported(key: str, made: "Export") -> Iterator[str]:
    from petseg.predict.onnx import INPUT, OUTPUT

    mask = "no thresholds, because infer has not run yet"
    if made.thresholds:
        whole, tight = (made.thresholds[edge] for edge in ("whole", "tight"))
        mask = f"whole mask: {whole:g} or more; tight one: {tight:g} or more, and within the whole one"
    compared = (
        f"ONNX Runtime and torch differ by {made.difference:.1e} at most on {counted(made.compared, 'photo')}"
        if made.compared
        else "not compared with torch, because no photos are packed here; dvc repro preprocess packs some"
    )
    written = f"{made.path}, {size(made.size_bytes)}"
    yield f"run {key}: {written}; {INPUT} in, {OUTPUT} out, {mask}; {compared}"
