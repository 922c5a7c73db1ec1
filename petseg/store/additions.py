"""What later stages add to a finished run: evaluations by infer, figures by plot."""

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
    """What a later stage added to a finished run."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, record: Path) -> Self:
        """Read it.

        Args:
            record: its file.

        Raises:
            BrokenRecord: it is not what it must be.
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
        """What the ledger knows it by."""
        return self.folder.parents[1].name, self.kind, self.key

    def edit(self) -> str | None:
        """Say what shows that its record was edited, or lies elsewhere; None where nothing does."""
        if link := link_to(self.folder.parents[1], f"{self.kind}/{self.key}"):
            return f"{link}: is a link, and no folder of the store"
        return edit_of(self.folder.parents[2], self.place, self.record, self.manifest)

    def damages(self) -> list[str]:
        """Say of its record, and of each file, whether it is absent or differs from its hash."""
        edit = self.edit()
        return ([edit] if edit else []) + list(differing(self.folder, self.manifest["files"]))

    def export(self, files: Mapping[str, Path]) -> None:
        """Copy files of it out of the store, byte for byte.

        Args:
            files: by their name in the store, where they go.

        Raises:
            DamagedFile: its record was edited, or one of them is gone, or differs from its recorded hash;
                nothing is copied then.
        """
        check_unedited(self.edit())
        export_files(self.folder, self.manifest["files"], files)


class Evaluation(Addition):
    """What one way of inferring found on the test photos."""

    @cached_property
    def headlines(self) -> dict[str, Any]:
        """The scores that matter, as metrics/test.json has them.

        Raises:
            BrokenRecord: they are not what they must be.
            DamagedFile: they are gone, or differ from their recorded hash.
        """
        path = self.folder / HEADLINES
        content = read_recorded(path, self.manifest["files"].get(HEADLINES))
        return cast("dict[str, Any]", checked(parsed(content, path), Headlines, path))

    @property
    def thresholds(self) -> dict[Edge, float]:
        """From which probability a pixel is pet, as validation chose; one output has one for both edges."""
        found = self.headlines
        return found.get("thresholds") or dict.fromkeys(OUTPUTS, found["threshold"])

    @property
    def flip_average(self) -> bool:
        """Whether a prediction was the mean of a photo's and of its mirror image's."""
        return bool(self.manifest.get("settings", {}).get("infer.flip_average", False))


def check_unedited(edit: str | None) -> None:
    """Raise what shows that a record was edited.

    Raises:
        DamagedFile: it was.
    """
    if edit:
        raise DamagedFile(f"{edit}; petseg runs verify says more")
