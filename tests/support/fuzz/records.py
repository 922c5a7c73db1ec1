"""The parsers of records of the store and the pipeline. Mutated records get valid hashes and are used."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

from petseg.cli.summary import RECORDED, reproduction, summary
from petseg.core.files import sha256_file, why_not
from petseg.core.textfiles import write_json
from petseg.errors import PetsegError
from petseg.evaluation.outputs import HEADLINES
from petseg.models.pretrained import Encoder
from petseg.pipeline.dvcfiles import LOCK, stage_paths
from petseg.report import reading
from petseg.report.latest import latest
from petseg.store.adopt import adopt
from petseg.store.before import EARLIER
from petseg.store.card import card
from petseg.store.chain import LEDGER, MARKER, hash_of, read_ledger
from petseg.store.champion import promote, promotions
from petseg.store.layout import HISTORY, MANIFEST
from petseg.store.ledger import changing
from petseg.store.prune import why_kept
from petseg.store.records import sealed
from petseg.store.run import StoredRun
from petseg.store.runs import stored_runs
from petseg.store.verify import against_ledger
from petseg.store.writer import read_history
from petseg.tracking.entries import of_data_stage, of_epoch, of_evaluation, of_figures, of_training
from petseg.tracking.outbox import DataRecord, Entry
from tests.support import ROOT
from tests.support.fuzz import mutation
from tests.support.fuzz.parsers import of_file, of_samples
from tests.support.fuzz.running import Parser, Prepare
from tests.support.results import write_results
from tests.support.store import evaluate, make_run

MIDDLE = "evaluations/e1/evaluation.json"


def _store(folder: Path, has_ledger: bool) -> Path:
    """Make a store of three runs, one of them scored. Without a ledger, only a record's seal proves it."""
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    run = make_run(folder, "aa", 0.9)
    make_run(folder, "bb", 0.8)
    make_run(folder, "cc", 0.5, status="running")
    evaluate(run, 0.7)
    (folder / "old.pt").write_bytes(b"no weights")
    adopt(folder / "old.pt", folder / "runs", "of before")
    promote(run, force=True)
    if not has_ledger:
        shutil.rmtree(folder / "runs" / LEDGER)
        (folder / "runs" / MARKER).unlink()
        # The entry "clone" says that there was a ledger.
        for path in (*folder.glob(f"runs/*/{MANIFEST}"), *folder.glob(f"runs/*/{MIDDLE}")):
            record = json.loads(path.read_text())
            if record.pop("clone", None):
                path.chmod(0o644)
                write_json(path, sealed(record) if "sha256" in record else record)
    for path in folder.glob("runs/**/*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder / "runs"


def use(store: Path) -> None:
    """Read a store in every way. The run bb, which nobody changed, must stay usable.

    Raises:
        AssertionError: bb is not usable, or a message has more than one line.
    """
    runs, broken = stored_runs(store)
    lines = [*broken, *against_ledger(store, runs)]
    assert "bb" in [run.key for run in runs]
    ways: list[Callable[[], object]] = [lambda: latest(store.parent), lambda: promotions(store)]
    for run in runs:
        lines += list(run.damages()) if run.finished else []
        lines += run.broken
        ways += [
            run.rows, run.proved_evaluation, partial(of_training, run),
            partial(read_history, run.folder), partial(_epochs, run),
        ]  # fmt: skip
        ways += [partial(card, run)] if run.finished else []
        ways += [partial(of_evaluation, run, each) for each in run.evaluations]
        ways += [partial(of_figures, run, each) for each in run.figures]
        for each in (run.val_dice, run.network, run.size_bytes, run.recorded_files, run.validated_by):
            str(each)
    for way in ways:
        try:
            way()
        except (PetsegError, OSError) as error:
            if isinstance(error, OSError) and error.errno is None:
                raise
            lines.append(why_not(error))
    why_kept(store)
    for line in lines:
        assert "\n" not in line, line[:200]
        assert len(line) < 5000
        line.encode()


def _epochs(run: StoredRun) -> object:
    return list(map(of_epoch, run.rows()))


def _record(folder: Path, name: str) -> Parser:
    """A record of a store without a ledger. Half the time its seal is made to match its content."""
    store = _store(folder, has_ledger=False)
    path = max(store.glob(name), key=lambda path: len(str(path)))
    samples = [path.read_bytes()]

    def make(random: Random) -> bytes:
        data = mutation.json_of(random, random.choice(samples))
        return mutation.repaired(random, data, sealed)

    return Parser(make, of_file(path, lambda _: use(store)))


def _hashed(folder: Path, name: str, record: str, by_line: bool = False) -> Parser:
    """A file of the store. The record that holds its hash is always updated to match it."""
    store = _store(folder, has_ledger=False)
    path, holder = store / name, store / record
    content = path.read_bytes()
    if by_line:
        row = json.loads(content)
        rows = [
            row | {"epoch": n, "size_px": 32, "train_loss": 0.1, "learning_rate": 1e-3} for n in (1, 2, 3)
        ]
        content = b"".join(json.dumps(each).encode() + b"\n" for each in rows)
    mutate = partial(_one_line, mutate=mutation.json_of) if by_line else mutation.json_of

    def read(file: Path) -> None:
        updated = json.loads(holder.read_text())
        updated["files"][file.name] = sha256_file(file)
        holder.unlink()
        write_json(holder, sealed(updated))
        use(store)

    return Parser(of_samples([content], mutate), of_file(path, read))


def _one_line(
    random: Random, sample: bytes, mutate: Callable[[Random, bytes], bytes] = mutation.json_of
) -> bytes:
    """Change one line of a file that has one record per line, or any of its bytes."""
    if random.random() < 0.2:
        return mutation.bytes_of(random, sample)
    lines = sample.splitlines(keepends=True)
    at = random.randrange(len(lines))
    lines[at] = mutate(random, lines[at]) + b"\n"
    return b"".join(lines)


def _ledger(folder: Path, name: str) -> Parser:
    """The ledger, its marker, or the promotions of older stores. The store is then read and changed."""
    store = _store(folder, has_ledger=name != EARLIER)
    if name == EARLIER:
        line = {"when": "2026", "key": "bb", "val_dice": 0.8, "before": None, "forced": False, "by": "me"}
        (store / EARLIER).write_text("".join(json.dumps(line) + "\n" for _ in range(2)))
    path = next(store.glob(name))
    whole = {
        each: each.read_bytes() for each in (store / MARKER, *store.glob(f"{LEDGER}/*")) if each.exists()
    }
    sample = path.read_bytes()
    if name == MARKER:
        pending = {"event": "added", "run": "aa", "kind": "evaluations", "key": "e1", "file": HISTORY}
        sample = json.dumps(json.loads(sample) | {"pending": pending | {"sha256": "0"}}).encode()

    def read(file: Path) -> None:
        data = file.read_bytes()
        for each in store.glob(f"{LEDGER}/*"):
            each.unlink()
        for each, content in whole.items():
            each.write_bytes(content)
        (store / MARKER).unlink(missing_ok=name == EARLIER)
        if name != EARLIER:
            (store / MARKER).write_bytes(whole[store / MARKER])
        file.write_bytes(_chained(store, data) if name.startswith(LEDGER) and len(data) % 2 else data)
        use(store)
        read_ledger(store)
        with changing(store):
            pass
        assert StoredRun.open(store / "bb").finished

    return Parser(
        of_samples([sample], mutation.json_of if name == MARKER else _one_line), of_file(path, read)
    )


def _chained(store: Path, data: bytes) -> bytes:
    """Put the hash of the line before into each line, make the marker match, and return the lines."""
    lines: list[bytes] = []
    for line in data.splitlines():
        record = None
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
        before = hash_of(lines[-1] if lines else b"")
        lines.append(json.dumps(record | {"before": before}).encode() if isinstance(record, dict) else line)
    text = b"".join(line + b"\n" for line in lines)
    known = {"lines": len(lines), "last": hash_of(lines[-1] if lines else b""), "size": len(text)}
    write_json(store / MARKER, json.loads((store / MARKER).read_text()) | known)
    return text


def outbox(folder: Path) -> Parser:
    """Entries of the outbox for MLflow: of a run, and of a stage before training."""
    data = DataRecord("preprocess", {"split.seed": 0}, {"a": "b"}, {"kept": 3.0}, ended="2026-01-01T10:00:00")
    data.datasets, data.texts = [("pets", "0" * 64, "here")], {"report.csv": "a,b"}
    samples = [json.dumps(vars(data)).encode(), b'{"uid": "ab12", "status": "FAILED", "ended": "2026-01-01"}']

    def read(path: Path) -> object:
        entry = Entry(path.rename(path.with_name("data-1" if b"stage" in path.read_bytes() else "aa"))).read()
        return of_data_stage("data-1", DataRecord(**entry)) if "stage" in entry else entry

    return Parser(of_samples(samples, mutation.json_of), of_file(folder / "entry", read))


def encoder(folder: Path) -> Parser:
    (folder / "resnet34.pth").write_bytes(b"")
    digest = sha256_file(folder / "resnet34.pth")
    sample = json.dumps({"origin": "imagenet", "sha256": digest}).encode()
    read = partial(Encoder.open, choice="imagenet")
    return Parser(
        of_samples([sample], mutation.json_of), of_file(folder / "encoder.json", lambda _: read(folder))
    )


def metrics(folder: Path) -> Parser:
    """The files behind the summary of ``make repro``: an input is a letter for the file, then its content."""
    paths = {name: stage_paths(ROOT, name) for name in ("train", "infer")}
    files = {
        b"t": paths["infer"]["metrics"], b"b": paths["train"]["metrics"], b"r": ROOT / RECORDED,
        b"m": paths["train"]["weights"].with_suffix(".json"),
    }  # fmt: skip
    (folder / ".dvc").mkdir()
    places = {letter: folder / path.relative_to(ROOT) for letter, path in files.items()}
    for name in ("dvc.yaml", str(LOCK)):
        shutil.copy(ROOT / name, folder)
    samples = {letter: path.read_bytes() for letter, path in files.items() if path.exists()}
    samples.setdefault(b"m", b'{"run_key": "0123456789abcdef"}')

    def make(random: Random) -> bytes:
        letter = random.choice(sorted(samples))
        return letter + mutation.json_of(random, samples[letter])

    def parse(data: bytes) -> object:
        for letter, path in places.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[1:] if data[:1] == letter else samples[letter])
        reproduction(folder)
        return "\n".join(summary(folder)).encode()

    return Parser(make, parse)


TABLES: Mapping[str, Callable[[Path], object]] = {
    "per_image.csv": partial(reading.table, columns=reading.PHOTOS),
    "breeds.csv": partial(reading.table, columns=reading.BREEDS),
    "thresholds.csv": partial(reading.table, columns=reading.THRESHOLDS),
    "calibration.csv": partial(reading.table, columns=reading.CALIBRATION),
    "history.csv": reading.history,
    HEADLINES: reading.headlines,
}


def tables(folder: Path) -> Parser:
    """The tables for the figures and the page: an input is a number for the file, then its content."""
    made = write_results(folder / "made")
    paths = [made.history_file if name == "history.csv" else made.folder / name for name in TABLES]
    samples = [path.read_bytes() for path in paths]
    readers = list(TABLES.values())

    def make(random: Random) -> bytes:
        place = random.randrange(len(samples))
        mutate = mutation.json_of if paths[place].suffix == ".json" else mutation.lines_of
        return bytes([place]) + mutate(random, samples[place])

    def parse(data: bytes) -> object:
        path = folder / "changed"
        path.write_bytes(data[1:])
        return readers[data[0]](path)

    return Parser(make, parse)


ADOPTED = f"[0-9a-f]*[0-9a-f]/{MANIFEST}"  # the adopted run has the longest name
RECORDS: dict[str, Prepare] = {
    "manifest, finished": partial(_record, name=f"aa/{MANIFEST}"),
    "manifest, running": partial(_record, name=f"cc/{MANIFEST}"),
    "manifest, adopted": partial(_record, name=ADOPTED),
    "history": partial(_hashed, name=f"aa/{HISTORY}", record=f"aa/{MANIFEST}", by_line=True),
    "evaluation": partial(_record, name=f"aa/{MIDDLE}"),
    "scores": partial(_hashed, name=f"aa/evaluations/e1/{HEADLINES}", record=f"aa/{MIDDLE}"),
    "ledger": partial(_ledger, name=f"{LEDGER}/*.jsonl"),
    "store.json": partial(_ledger, name=MARKER),
    "champions.jsonl": partial(_ledger, name=EARLIER),
    "outbox": outbox,
    "encoder.json": encoder,
    "metrics, recorded.json": metrics,
    "tables, test.json": tables,
}
