"""Measure the figures of docs/measured.md, and print them as a Markdown table, ratios first.

Run it on a quiet machine, because another busy process makes every figure wrong.
"""

import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, redirect_stderr
from dataclasses import replace
from functools import partial
from itertools import chain, cycle
from pathlib import Path

import torch

from petseg.core.textfiles import write_json
from petseg.data.archives import ANNOTATIONS, PHOTOS
from petseg.data.arrays import PetArrays
from petseg.data.batches import Photos, load_photos, masks_of_outputs, normalize
from petseg.data.preprocess import pack
from petseg.evaluation.outputs import HEADLINES
from petseg.models.device import set_up_torch
from petseg.params import OUTPUTS, Params, load_params
from petseg.store.keep import keep
from petseg.store.layout import CARD, EVALUATIONS
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs
from petseg.store.writer import open_run
from petseg.tracking.rows import live_row
from petseg.training.loop import TrainingState, fit, predict_masks, train_step

ROOT = Path(__file__).resolve().parent.parent
SAMPLE, MINI = ROOT / "data/sample", ROOT.parent / "shared/data/mini"
PETSEG = [sys.executable, "-m", "petseg", "runs"]
ROUNDS = 5
OFFICIAL_PHOTOS = 7349
RUNS_LISTED, EPOCHS_LISTED = 1000, 50
Row = tuple[str, str, str, str]  # what, measured, wanted, how


def main() -> None:
    """Print the table, each row as soon as it is measured."""
    params = load_params(ROOT / "params.yaml")
    device = set_up_torch(params.train.device, params.train.threads)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {os.cpu_count()} cores\n")
    print("| what | measured | wanted | how |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pack(SAMPLE, work / "pets", work / "r.csv", params.data.image_size, 0.0, params.split)
        arrays = PetArrays.open(work / "pets")
        train, val = (load_photos(arrays, split, device) for split in ("train", "val"))
        for row in chain(
            fit_against_bare_step(params, train, val, device),
            preprocess_speed(params, work),
            preprocess_memory(work),
            cost_of_records(params, arrays, train, val, device, work),
            starts(work),
            listing(work),
            nothing_to_do(),
        ):
            print(f"| {' | '.join(row)} |", flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fit_against_bare_step(params: Params, train: Photos, val: Photos, device: torch.device) -> Iterator[Row]:
    """Compare an epoch of ``fit`` with the same number of bare steps, in turn, in this process."""
    settings = params.train.model_copy(update={"start_size": 1.0})  # photos at full size
    bare = TrainingState.new(params.model, params.train, device)
    size = params.train.batch_size
    photos = normalize(train.images[:size].permute(0, 3, 1, 2).float() / 255)
    photos = photos.contiguous(memory_format=torch.channels_last)
    masks = masks_of_outputs(train.trimaps[:size])
    steps = len(train) // size

    def bare_epoch() -> None:
        bare.network.train()
        for _ in range(steps):
            train_step(bare.network, bare.optimizer, photos, masks, params.train, 1e-3)

    state = TrainingState.new(params.model, params.train, device)
    epochs = fit(state, train, val, settings, params.augment)
    bare_epoch()
    next(epochs)
    rates, ratios = [], []
    for _ in range(ROUNDS):
        bare_rate = steps * size / seconds(bare_epoch)
        rates.append(next(epochs).images_per_s)
        ratios.append(rates[-1] / bare_rate)
    yield (
        "`fit`, relative to the images/s of the bare step",
        f"{statistics.median(ratios):.2f} ({statistics.median(rates):.0f} images/s)",
        "0.95",
        f"{params.model.name}, width {params.model.width}, depth {params.model.depth}, "
        f"{train.images.shape[1]} px, batch {size}; median of {ROUNDS}",
    )


def preprocess_speed(params: Params, work: Path) -> Iterator[Row]:
    """Time the packing of the photos, several times."""
    for name, archives, wanted in (("original photos", MINI, "500"), ("embedded photos", SAMPLE, "-")):
        if not archives.is_dir():
            yield f"preprocess, {name}", "not measured", wanted, "the folder is not beside the checkout"
            continue
        rates = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            with redirect_stderr(io.StringIO()):  # no progress lines in the table
                report = pack(archives, work / "out", work / "r.csv", 128, 0.0, params.split)
            rates.append(report.listed / (time.perf_counter() - started))
        yield (
            f"preprocess, {name}",
            f"{statistics.median(rates):.0f} photos/s",
            wanted,
            f"{report.listed} photos, to 128 px; median of {ROUNDS}",
        )


def preprocess_memory(work: Path) -> Iterator[Row]:
    """Pack as many photos as the official set has, in a separate process, and read its peak of memory."""
    if not MINI.is_dir():
        yield "preprocess, peak memory", "not measured", "1000 MB", "the folder is not beside the checkout"
        return
    (work / "many").mkdir()
    write_like_official(MINI, work / "many")
    code = (
        "import sys; from pathlib import Path; from petseg.data.preprocess import pack\n"
        "from petseg.params import load_params\n"
        "work, split = Path(sys.argv[1]), load_params().split\n"
        "pack(work / 'many', work / 'packed', work / 'r.csv', 128, 1.0, split)\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    command = [sys.executable, "-c", code, str(work)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    elapsed_s = time.perf_counter() - started
    yield (
        "preprocess, peak memory",
        f"{int(done.stdout) / 1000:.0f} MB",
        "1000 MB",
        f"{OFFICIAL_PHOTOS:,} original photos, as many as the official set has, in {elapsed_s:.0f} s",
    )


def write_like_official(source: Path, target: Path) -> None:
    """Write archives as large as the official set: the photos of a folder, repeated under new names."""
    with tarfile.open(source / ANNOTATIONS) as archive:
        trimaps = {Path(m.name).stem: m for m in archive if m.name.endswith(".png") and "/._" not in m.name}
        with (
            tarfile.open(source / PHOTOS) as photos,
            tarfile.open(target / PHOTOS, "w:gz", compresslevel=1) as out,
        ):
            originals = [m for m in photos if m.name.endswith(".jpg") and Path(m.name).stem in trimaps]
            names = [f"Bengal_{n}" for n in range(OFFICIAL_PHOTOS)]
            for name, member in zip(names, cycle(originals)):
                copy_member(photos, member, out, f"images/{name}.jpg")
        with tarfile.open(target / ANNOTATIONS, "w:gz", compresslevel=1) as out:
            for name, member in zip(names, cycle(originals)):
                trimap = trimaps[Path(member.name).stem]
                copy_member(archive, trimap, out, f"annotations/trimaps/{name}.png")
            for part, listed in (("trainval", names[::2]), ("test", names[1::2])):
                text = "".join(f"{name} 1 1 1\n" for name in listed).encode()
                info = tarfile.TarInfo(f"annotations/{part}.txt")
                info.size = len(text)
                out.addfile(info, io.BytesIO(text))


def copy_member(source: tarfile.TarFile, member: tarfile.TarInfo, out: tarfile.TarFile, name: str) -> None:
    """Copy a file from one archive to another, under another name."""
    info = tarfile.TarInfo(name)
    info.size = member.size
    out.addfile(info, source.extractfile(member))


def cost_of_records(
    params: Params, arrays: PetArrays, train: Photos, val: Photos, device: torch.device, work: Path
) -> Iterator[Row]:
    """Time the work besides training: after each epoch, as a share of 5 s, and once per run."""
    (work / ".dvc/tmp").mkdir(parents=True)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    short = params.train.model_copy(update={"epochs": 8})
    state = TrainingState.new(params.model, short, device)
    few = replace(train, images=train.images[:32], trimaps=train.trimaps[:32])
    shown = arrays.images[val.rows[:6]]
    logging, saving = [], []
    with chdir(work), open_run(work / "runs", "b0" * 8, {"data_sha256": "0" * 64}) as run:
        run.note(shown_rows=val.rows[:6].tolist())
        run.show(shown)
        started = time.perf_counter()  # from here it imports mlflow and makes the database
        with ExitStack() as stack:
            row = stack.enter_context(live_row(run))
            row.log_epochs()
            once_s = time.perf_counter() - started
            for record in fit(state, few, val, short, params.augment):
                masks = predict_masks(state.evaluated, val.images[:6])
                saving.append(seconds(partial(run.add, record, state, masks)))
                logging.append(seconds(row.log_epochs))
            size_mb = max(path.stat().st_size for path in run.folder.rglob("*.safetensors")) / 1e6
            run.finish(
                {"model": params.model.model_dump(), "image_size": val.images.shape[1], "outputs": OUTPUTS}
            )
            once_s += seconds(stack.close)
        evaluate(run, work)
        sync = [*PETSEG, "sync", "--all", "--quiet"]
        model_s = seconds(partial(subprocess.run, sync, env=environment(), check=True))
    save_s, log_s = statistics.median(saving), statistics.median(logging)
    yield (
        "MLflow and checkpoint, as a share of a 5 s epoch",
        f"{(save_s + log_s) / 5:.1%}",
        "5 %",
        f"MLflow {log_s * 1000:.0f} ms ({log_s / 5:.1%}, wanted 3 %), a checkpoint of {size_mb:.0f} MB "
        f"{save_s * 1000:.0f} ms; median of 8",
    )
    whole_s = 5 * params.train.epochs
    yield (
        f"MLflow once per run, as a share of {params.train.epochs} such epochs",
        f"{(once_s + model_s) / whole_s:.1%}",
        "-",
        f"import, new database and weights {once_s:.1f} s, logging of infer with the model "
        f"{model_s:.1f} s; one round",
    )


def evaluate(run: StoredRun, work: Path) -> None:
    """Store an evaluation as infer does."""
    scores = {"dice_per_image": 0.9, "dice_per_image_low": 0.8, "dice_per_image_high": 1.0, "threshold": 0.5}
    write_json(work / HEADLINES, scores)
    write_json(run.folder / CARD, {})
    about = {"settings": {"infer.flip_average": True}, "data_sha256": "0" * 64}
    keep(run, EVALUATIONS, "e", about, {HEADLINES: work / HEADLINES})


def starts(work: Path) -> Iterator[Row]:
    """Time the start of stages, until their work begins."""
    ready = {
        "train: torch, and its row in MLflow": (
            "import stages.train; from petseg.tracking.client import connect; connect()",
            "6 s",
        ),
        "infer: torch": ("import stages.infer", "6 s"),
        "download: neither torch nor MLflow": ("import stages.download", "2 s"),
        "preprocess: neither torch nor MLflow": ("import stages.preprocess", "2 s"),
    }
    for what, (code, wanted) in ready.items():
        median_s = statistics.median(seconds_until_ready(code, work) for _ in range(ROUNDS))
        yield f"start of {what}", f"{median_s:.1f} s", wanted, f"median of {ROUNDS}"


def seconds_until_ready(code: str, folder: Path) -> float:
    """Time a new Python process until it has run some code, without the end of the process."""
    command = [sys.executable, "-c", f"{code}\nprint('ready', flush=True)"]
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{code}: failed")
        return time.perf_counter() - started


def environment() -> dict[str, str]:
    """Return the environment for programs of petseg that run in another folder."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def listing(work: Path) -> Iterator[Row]:
    """Time the list of copies of the run of ``cost_of_records``, with as many files as a default run."""
    (run,), _ = stored_runs(work / "runs")
    for epoch in range(len(run.rows()) + 1, EPOCHS_LISTED + 1):
        os.link(run.folder / "evolution/00001.png", run.folder / f"evolution/{epoch:05}.png")
    for n in range(1, RUNS_LISTED):
        shutil.copytree(run.folder, run.folder.with_name(f"{n:016x}"), copy_function=os.link)
    shutil.copy(ROOT / "params.yaml", work)
    (work / ".dvc").mkdir(exist_ok=True)
    list_runs = partial(
        subprocess.run, [*PETSEG, "list"], cwd=work, env=environment(), capture_output=True, check=True
    )
    median_s = statistics.median(seconds(list_runs) for _ in range(ROUNDS))
    yield f"`petseg runs list` of {RUNS_LISTED:,}", f"{median_s:.2f} s", "1 s", f"median of {ROUNDS}"
    show_help = partial(
        subprocess.run, [*PETSEG[:-1], "--help"], cwd=work, env=environment(), capture_output=True
    )
    median_s = statistics.median(seconds(show_help) for _ in range(ROUNDS))
    yield "`petseg --help`", f"{median_s:.2f} s", "0.3 s", f"median of {ROUNDS}"


def nothing_to_do() -> Iterator[Row]:
    """Time ``dvc repro`` in this checkout if its pipeline has run."""
    what, wanted = "`dvc repro`, nothing to do", "3 s"
    if subprocess.run(["dvc", "status", "--quiet"], cwd=ROOT, check=False).returncode:
        yield what, "not measured", wanted, "run `make repro` first"
        return
    repro = partial(subprocess.run, ["dvc", "repro"], cwd=ROOT, capture_output=True, check=True)
    median_s = statistics.median(seconds(repro) for _ in range(ROUNDS))
    yield what, f"{median_s:.1f} s", wanted, f"median of {ROUNDS}"


if __name__ == "__main__":
    main()
