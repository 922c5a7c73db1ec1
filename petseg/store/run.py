"""Read one run of the store, check its files, and copy them out.

petseg.store.layout says what lies in a run's folder, petseg.store.writer writes it. Nothing here needs torch.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from petseg.core.files import folder_bytes, listed, why_not
from petseg.core.locks import Held, held
from petseg.core.terminal import print_lines, warn_once
from petseg.core.textfiles import with_texts
from petseg.core.urls import public_url
from petseg.errors import BrokenRecord, DamagedFile, RunLocked, StoreError
from petseg.store.additions import Addition, Evaluation, check_unedited
from petseg.store.chain import Place, edit_of, unfinished_edit_of
from petseg.store.layout import ABOUT, EVALUATIONS, FIGURES, HISTORY, MANIFEST, RECORDS, WEIGHTS, records_in
from petseg.store.records import check_files, differing, export_files, read_lines, read_manifest
from petseg.store.typed import Row

BOTH_RULES = "both rules"
AnyAddition = TypeVar("AnyAddition", bound=Addition)


@dataclass
class StoredRun:
    """One run of the store, to read."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a run's manifest.

        Raises:
            StoreError: there is none, it is not what it must be, or it is of a later format.
            OSError: it can't be read.
        """
        manifest = read_manifest(folder)
        if not manifest:
            raise StoreError(f"{folder}: is no run, it has no {MANIFEST}")
        return cls(folder, manifest)

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def record(self) -> Path:
        return self.folder / MANIFEST

    @property
    def place(self) -> Place:
        """What the ledger knows it by."""
        return (self.key,)

    def edit(self) -> str | None:
        """Say what shows that its record was edited; None where nothing does."""
        if self.finished:
            return edit_of(self.folder.parent, self.place, self.record, self.manifest)
        return unfinished_edit_of(self.folder.parent, self.place, self.record)

    @property
    def uid(self) -> str:
        """What tells this training from another of the same key elsewhere."""
        return str(self.manifest.get("uid", self.key))  # runs of before had none

    @property
    def finished(self) -> bool:
        return bool(self.manifest["status"] == "finished")

    @property
    def usable(self) -> bool:
        """Whether it has weights and a description of them."""
        return self.finished and {WEIGHTS, ABOUT} <= self.manifest["files"].keys()

    @property
    def adopted(self) -> bool:
        """Whether its weights were trained elsewhere."""
        return "adopted" in self.manifest

    @property
    def network(self) -> str:
        """The network's name and what is particular about it, as far as it is known."""
        params = self.params
        sizes = [
            f"{part} {params[f'model.{part}']}" for part in ("width", "depth") if f"model.{part}" in params
        ]
        return ", ".join([str(params.get("model.name", "unknown network")), *sizes])

    @property
    def data(self) -> dict[str, Any]:
        """What params said of the photos, flat; of a URL without user, password and query."""
        return cast("dict[str, Any]", with_texts(self.manifest.get("data", {}), public_url))

    @property
    def params(self) -> dict[str, Any]:
        """Every param that is known and that its weights depend on, flat."""
        size = {k: v for k, v in self.data.items() if k == "data.image_size"}
        return {**size, **self.manifest.get("split", {}), **self.manifest.get("params", {})}

    @property
    def val_dice(self) -> float | None:
        """The validation Dice of the best epoch, of an unfinished run too; None where none is known."""
        if self.finished:
            best: float | None = self.manifest.get("best", {}).get("val_dice")
            return best
        rows = self.rows()
        return max((row["val_dice"] for row in rows if row["val_dice"] is not None), default=None)

    @property
    def validated_by(self) -> str:
        """The rule for the border that its validation Dice is by; both, for a network of two outputs."""
        return str(self.params.get("data.boundary", BOTH_RULES))

    def rows(self) -> list[dict[str, Any]]:
        """Return its history, one a finished epoch.

        Raises:
            BrokenRecord: it is not what it must be.
            DamagedFile: it differs from its recorded hash, or is gone.
            OSError: it can't be read.
        """
        recorded = self.manifest.get("files", {}).get(HISTORY)
        return cast("list[dict[str, Any]]", read_lines(self.folder / HISTORY, Row, recorded))

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """What infer found, the newest last; without those whose scores are not what they must be."""
        return [each for each in self._added[0] if _problem_of(each) is None]

    @property
    def scored(self) -> bool:
        """Whether infer has scored it, be the scores whole or not."""
        return bool(listed(self.folder / EVALUATIONS, "[!.]*"))

    @property
    def figures(self) -> list[Addition]:
        """What plot drew, the newest last."""
        return self._added[1]

    @property
    def added(self) -> list[Addition]:
        """All evaluations and figures."""
        return [*self._added[0], *self._added[1]]

    @property
    def holders(self) -> "list[StoredRun | Addition]":
        """What has a record of files: the run itself, and all that was added to it."""
        return [self, *self.added]

    @property
    def broken(self) -> list[str]:
        """A line for each record that was edited, or is not what it must be; the others are used."""
        edited = [edit for holder in self.holders if (edit := holder.edit())]
        return edited + [why_not(error) for error in self._problems()]

    def _problems(self) -> list[StoreError | OSError]:
        return [*self._added[2], *(error for each in self._added[0] if (error := _problem_of(each)))]

    @cached_property
    def _added(self) -> tuple[list[Evaluation], list[Addition], list[StoreError | OSError]]:
        broken: list[StoreError | OSError] = []
        evaluations = _opened(Evaluation, self.folder / EVALUATIONS, broken)
        return evaluations, _opened(Addition, self.folder / FIGURES, broken), broken

    @property
    def evaluation(self) -> Evaluation | None:
        """The newest evaluation; None where infer has not run."""
        return self.evaluations[-1] if self.evaluations else None

    def proved_evaluation(self, shown: Mapping[str, Any] | None = None) -> Evaluation | None:
        """Return the newest evaluation that is as recorded, to be used; others are named on stderr.

        Args:
            shown: scores; an evaluation that found these comes before newer ones.

        Raises:
            OSError: an evaluation can't be read.
        """
        for error in self._problems():
            if isinstance(error, OSError):
                raise error
            warn_once(str(error))
        newest_first = self.evaluations[::-1]
        for each in sorted(newest_first, key=lambda each: each.headlines != shown):
            damages = each.damages()
            if not damages:
                return each
            warn_once(f"{damages[0]}; this evaluation is not used")
        return None

    @property
    def size_bytes(self) -> int:
        """What it takes on the disk, but for a few kB: when it was finished, and by what was added since."""
        if "size_bytes" not in self.manifest:  # not finished, adopted, or of an earlier petseg
            return folder_bytes(str(self.folder))
        added = [self.folder / kind for kind in RECORDS]
        added_bytes = sum(folder_bytes(str(folder)) for folder in added if folder.exists())
        return int(self.manifest["size_bytes"]) + added_bytes

    @property
    def recorded_files(self) -> int:
        """How many files the records have a hash of, the records included."""
        records = [self.manifest, *(addition.manifest for addition in self.added)]
        return sum(1 + len(record.get("files", {})) for record in records)

    def damages(self) -> Iterator[str]:
        """Say of each file of a finished run that is absent or differs from its recorded hash."""
        for holder in self.holders:
            if edit := holder.edit():
                yield edit
            for name, digest in holder.manifest.get("files", {}).items():
                try:
                    yield from differing(holder.folder, {name: digest})
                except OSError as error:  # the other files are looked at all the same
                    yield why_not(error)
        yield from map(why_not, self._added[2])

    def addition(self, kind: str, key: str) -> Addition | None:
        """Return an evaluation or a set of figures by its key; None where the run does not have it.

        Raises:
            BrokenRecord: its record is not what it must be.
        """
        record = self.folder / kind / key / RECORDS[kind]
        return (Evaluation if kind == EVALUATIONS else Addition).open(record) if record.exists() else None

    def export_added(self, kind: str, key: str, folder: Path, pattern: str = "*") -> bool:
        """Copy what a later stage added before into a folder, byte for byte.

        Args:
            kind: EVALUATIONS or FIGURES.
            key: hash of what determines it.
            folder: where to; it is made.
            pattern: which files.

        Returns:
            Whether it was there, and whole; a damaged one is named, so that it is computed again.
        """
        try:
            found = self.addition(kind, key)
            if found is None:
                return False
            found.export({name: folder / name for name in found.manifest["files"] if fnmatch(name, pattern)})
        except (DamagedFile, BrokenRecord) as damage:
            print_lines(f"warning: {damage}; it is computed again")
            return False
        return True

    def check_tensors(self, digest: str, weights: Path) -> None:
        """Check that weights which were used are this run's.

        Args:
            digest: of the tensors that were used.
            weights: the file that they were read from, for the message.

        Raises:
            DamagedFile: they are others.
        """
        if digest != self.manifest.get("tensors_sha256"):
            raise DamagedFile(f"{weights}: its tensors are not those of run {self.key}; nothing is recorded")

    def check_whole(self, *names: str) -> None:
        """Check that the record was not edited, and that these files, as far as it has them, are as recorded.

        Raises:
            DamagedFile: it was edited, or one of them is gone, or differs.
        """
        check_unedited(self.edit())
        files = self.manifest.get("files", {})
        check_files(self.folder, {name: digest for name, digest in files.items() if name in names})

    def export(self, files: Mapping[str, Path]) -> None:
        """Copy files of a finished run out of the store, byte for byte.

        Args:
            files: by their name in the store, where they go.

        Raises:
            StoreError: the run is not finished, or has no such file.
            DamagedFile: its record was edited, or one of them is gone, or differs from its recorded hash;
                nothing is copied then.
        """
        check_unedited(self.edit())
        if not self.finished:
            raise StoreError(
                f"run {self.key} is not finished; start the same training again to go on with it"
            )
        if absent := files.keys() - self.manifest["files"].keys():
            raise StoreError(f"run {self.key} has no {', '.join(sorted(absent))}: see {self.folder}")
        export_files(self.folder, self.manifest["files"], files)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run for this process alone.

    Raises:
        RunLocked: another process holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / ".lock", wait=False))
        except Held as other:
            message = f"run {folder.name} is being trained by process {other.pid}; wait for it, or stop it"
            raise RunLocked(message) from None
        yield


def is_edited(run: StoredRun) -> bool:
    """Tell whether a run's record was edited, and name it: then it is not used."""
    if edit := run.edit():
        warn_once(f"{edit}; the run is not used")
    return edit is not None


def _opened(form: type[AnyAddition], folder: Path, broken: list[StoreError | OSError]) -> list[AnyAddition]:
    """Read what a stage added, the oldest first; add to ``broken`` why others can't be read."""
    found = []
    for record in records_in(folder, RECORDS[folder.name]):
        try:
            found.append(form.open(record))
        except (BrokenRecord, OSError) as error:
            if record.exists():  # else it was set aside meanwhile
                broken.append(error)
    return sorted(found, key=lambda each: (each.manifest["created"], each.key))


def _problem_of(evaluation: Evaluation) -> StoreError | OSError | None:
    """Return why the scores of an evaluation can't be read; None where they can."""
    try:
        _ = evaluation.headlines
    except (StoreError, OSError) as error:
        return error
    return None
