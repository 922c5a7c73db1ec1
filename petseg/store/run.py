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
    """One run of the store, for reading."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a run's manifest.

        Raises:
            StoreError: there is none, it does not have the required form, or it has a later format.
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
        """The name of its record in the ledger."""
        return (self.key,)

    def edit(self) -> str | None:
        """Return what shows that its record was edited; None if nothing does."""
        if self.finished:
            return edit_of(self.folder.parent, self.place, self.record, self.manifest)
        return unfinished_edit_of(self.folder.parent, self.place, self.record)

    @property
    def uid(self) -> str:
        """An id that distinguishes this training from others with the same key elsewhere."""
        return str(self.manifest.get("uid", self.key))  # older runs have none

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
        """The network's name, width and depth, as far as they are known."""
        params = self.params
        sizes = [
            f"{part} {params[f'model.{part}']}" for part in ("width", "depth") if f"model.{part}" in params
        ]
        return ", ".join([str(params.get("model.name", "unknown network")), *sizes])

    @property
    def data(self) -> dict[str, Any]:
        """The params of the photos, flat; in URLs the user, the password and the query are masked."""
        return cast("dict[str, Any]", with_texts(self.manifest.get("data", {}), public_url))

    @property
    def params(self) -> dict[str, Any]:
        """Every known param on which its weights depend, flat."""
        size = {k: v for k, v in self.manifest.get("data", {}).items() if k == "data.image_size"}
        return {**size, **self.manifest.get("split", {}), **self.manifest.get("params", {})}

    @property
    def val_dice(self) -> float | None:
        """The validation Dice of the best epoch, also of an unfinished run; None if it is unknown."""
        if self.finished:
            best: float | None = self.manifest.get("best", {}).get("val_dice")
            return best
        rows = self.rows()
        return max((row["val_dice"] for row in rows if row["val_dice"] is not None), default=None)

    @property
    def validated_by(self) -> str:
        """The boundary rule of its validation Dice; both rules, if the network has two outputs."""
        return str(self.params.get("data.boundary", BOTH_RULES))

    def rows(self) -> list[dict[str, Any]]:
        """Return its history, one row per finished epoch.

        Raises:
            BrokenRecord: it does not have the required form.
            DamagedFile: it differs from its recorded hash, or is gone.
            OSError: it can't be read.
        """
        recorded = self.manifest.get("files", {}).get(HISTORY)
        return cast("list[dict[str, Any]]", read_lines(self.folder / HISTORY, Row, recorded))

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations by infer, the newest last, without those whose scores can't be read."""
        return [each for each in self._added[0] if _problem_of(each) is None]

    @property
    def scored(self) -> bool:
        """Whether infer has scored it, even if the scores are damaged."""
        return bool(listed(self.folder / EVALUATIONS, "[!.]*"))

    @property
    def figures(self) -> list[Addition]:
        """The sets of figures by plot, the newest last."""
        return self._added[1]

    @property
    def added(self) -> list[Addition]:
        """All evaluations and figures."""
        return [*self._added[0], *self._added[1]]

    @property
    def holders(self) -> "list[StoredRun | Addition]":
        """The run itself and all that was added to it: each has a record of files."""
        return [self, *self.added]

    @property
    def broken(self) -> list[str]:
        """A line for each record that was edited or can't be read; the others are used."""
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
        """The newest evaluation; None if infer has not run."""
        return self.evaluations[-1] if self.evaluations else None

    def proved_evaluation(self, shown: Mapping[str, Any] | None = None) -> Evaluation | None:
        """Return the newest evaluation whose files are as recorded; damaged ones are named on stderr.

        Args:
            shown: scores; an evaluation with these scores is preferred to newer ones.

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
        """Its size on disk, to within a few kB: when it was finished, and what was added since."""
        if "size_bytes" not in self.manifest:  # not finished, adopted, or from an earlier petseg
            return folder_bytes(str(self.folder))
        added = [self.folder / kind for kind in RECORDS]
        added_bytes = sum(folder_bytes(str(folder)) for folder in added if folder.exists())
        return int(self.manifest["size_bytes"]) + added_bytes

    @property
    def recorded_files(self) -> int:
        """The number of files whose hash is recorded, and of the records themselves."""
        records = [self.manifest, *(addition.manifest for addition in self.added)]
        return sum(1 + len(record.get("files", {})) for record in records)

    def damages(self) -> Iterator[str]:
        """Yield a line for each file of a finished run that is missing or differs from its recorded hash."""
        for holder in self.holders:
            if edit := holder.edit():
                yield edit
            for name, digest in holder.manifest.get("files", {}).items():
                try:
                    yield from differing(holder.folder, {name: digest})
                except OSError as error:  # the other files are still checked
                    yield why_not(error)
        yield from map(why_not, self._added[2])

    def addition(self, kind: str, key: str) -> Addition | None:
        """Return an evaluation or a set of figures by its key; None if the run does not have it.

        Raises:
            BrokenRecord: its record does not have the required form.
        """
        record = self.folder / kind / key / RECORDS[kind]
        return (Evaluation if kind == EVALUATIONS else Addition).open(record) if record.exists() else None

    def export_added(self, kind: str, key: str, folder: Path, pattern: str = "*") -> bool:
        """Copy an evaluation or a set of figures into a folder, byte for byte.

        Args:
            kind: EVALUATIONS or FIGURES.
            key: hash of what determines it.
            folder: the folder to copy to; it is created.
            pattern: which files to copy.

        Returns:
            Whether it was there and whole; a damaged one is named, and must be computed again.
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
        """Check that the weights that were used belong to this run.

        Args:
            digest: hash of the tensors that were used.
            weights: the file from which they were read, for the message.

        Raises:
            DamagedFile: they are other weights.
        """
        if digest != self.manifest.get("tensors_sha256"):
            raise DamagedFile(f"{weights}: its tensors are not those of run {self.key}; nothing is recorded")

    def check_whole(self, *names: str) -> None:
        """Check that the record was not edited, and that its files with these names are as recorded.

        Raises:
            DamagedFile: it was edited, or one of them is gone, or differs.
        """
        check_unedited(self.edit())
        files = self.manifest.get("files", {})
        check_files(self.folder, {name: digest for name, digest in files.items() if name in names})

    def export(self, files: Mapping[str, Path]) -> None:
        """Copy files of a finished run out of the store, byte for byte.

        Args:
            files: where each file is copied to, by its name in the store.

        Raises:
            StoreError: the run is not finished, or has no such file.
            DamagedFile: its record was edited, or one of the files is gone or differs from its recorded hash;
                then nothing is copied.
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
    """Lock a run, so that only this process can write to it.

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
    """Return whether a run's record was edited; print a line if it was, because it is not used then."""
    if edit := run.edit():
        warn_once(f"{edit}; the run is not used")
    return edit is not None


def _opened(form: type[AnyAddition], folder: Path, broken: list[StoreError | OSError]) -> list[AnyAddition]:
    """Read the additions of a stage, the oldest first; add the errors of unreadable ones to ``broken``."""
    found = []
    for record in records_in(folder, RECORDS[folder.name]):
        try:
            found.append(form.open(record))
        except (BrokenRecord, OSError) as error:
            if record.exists():  # else it has been set aside meanwhile
                broken.append(error)
    return sorted(found, key=lambda each: (each.manifest["created"], each.key))


def _problem_of(evaluation: Evaluation) -> StoreError | OSError | None:
    """Return why the scores of an evaluation can't be read; None if they can."""
    try:
        _ = evaluation.headlines
    except (StoreError, OSError) as error:
        return error
    return None
