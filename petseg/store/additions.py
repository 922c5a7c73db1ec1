"""Read what later stages add to a finished run: evaluations by infer, and figures by plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

from petseg.core.checked import checked, parsed, read_record
from petseg.errors import DamagedFile
from petseg.evaluation.outputs import HEADLINES
from petseg.params import OUTPUTS, Edge
from petseg.store.chain import Place, edit_of
from petseg.store.layout import RECORDS
from petseg.store.records import differing, export_files, link_to, read_recorded
from petseg.store.typed import Added, Headlines


@dataclass(frozen=True)
class Addition:
    """An evaluation or a set of figures that a later stage added to a finished run."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, record: Path) -> Self:
        """Read an addition.

        Args:
            record: the file of its record.

        Raises:
            BrokenRecord: the record does not have the required form.
        """
        return cls(record.parent, cast("dict[str, Any]", read_record(record, Added)))

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return self.folder.parent.name

    @property
    def record(self) -> Path:
        return self.folder / RECORDS[self.kind]

    @property
    def place(self) -> Place:
        """The name of its record in the ledger."""
        return self.folder.parents[1].name, self.kind, self.key

    def edit(self) -> str | None:
        """Return what shows that its record was edited, or lies elsewhere; None if nothing does."""
        if link := link_to(self.folder.parents[1], f"{self.kind}/{self.key}"):
            return f"{link}: is a link, and no folder of the store"
        return edit_of(self.folder.parents[2], self.place, self.record, self.manifest)

    def damages(self) -> list[str]:
        """Return a line for its record, and for each file, that is missing or differs from its hash."""
        edit = self.edit()
        return ([edit] if edit else []) + list(differing(self.folder, self.manifest["files"]))

    def export(self, files: Mapping[str, Path]) -> None:
        """Copy its files out of the store, byte for byte.

        Args:
            files: where each file is copied to, by its name in the store.

        Raises:
            DamagedFile: its record was edited, or one of the files is gone or differs from its recorded hash;
                then nothing is copied.
        """
        check_unedited(self.edit())
        export_files(self.folder, self.manifest["files"], files)


class Evaluation(Addition):
    """The scores of the test photos by one way of inferring."""

    @cached_property
    def headlines(self) -> dict[str, Any]:
        """The main scores, as in metrics/test.json.

        Raises:
            BrokenRecord: they do not have the required form.
            DamagedFile: they are gone, or differ from their recorded hash.
        """
        path = self.folder / HEADLINES
        content = read_recorded(path, self.manifest["files"].get(HEADLINES))
        return cast("dict[str, Any]", checked(parsed(content, path), Headlines, path))

    @property
    def thresholds(self) -> dict[Edge, float]:
        """The probability from which a pixel is pet, for each edge; one output has one value for both."""
        found = self.headlines
        return found.get("thresholds") or dict.fromkeys(OUTPUTS, found["threshold"])

    @property
    def flip_average(self) -> bool:
        """Whether a prediction was the mean of those for the photo and for its mirror image."""
        return bool(self.manifest.get("settings", {}).get("infer.flip_average", False))


def check_unedited(edit: str | None) -> None:
    """Raise an error if there is a sign that a record was edited.

    Raises:
        DamagedFile: there is.
    """
    if edit:
        raise DamagedFile(f"{edit}; petseg runs verify says more")
