"""What later stages add to a finished run: evaluations by infer, figures by plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

from petseg.errors import BrokenRecord, DamagedFile
from petseg.evaluation.outputs import HEADLINES
from petseg.store.layout import RECORDS
from petseg.store.records import differing, export_files, read_record, seal_of
from petseg.store.typed import Added, Headlines

EDITED = "differs from the hash that it holds"


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

    def damages(self) -> list[str]:
        """Say of its record, and of each file, whether it is absent or differs from its hash."""
        own = [] if is_as_sealed(self.manifest) else [f"{self.record}: {EDITED}"]
        return own + list(differing(self.folder, self.manifest["files"]))

    def export(self, files: Mapping[str, Path]) -> None:
        """Copy files of it out of the store, byte for byte.

        Args:
            files: by their name in the store, where they go.

        Raises:
            DamagedFile: its record was edited, or one of them is gone, or differs from its recorded hash;
                nothing is copied then.
        """
        if not is_as_sealed(self.manifest):
            raise DamagedFile(f"{self.record}: {EDITED}; petseg runs verify says more")
        export_files(self.folder, self.manifest["files"], files)


class Evaluation(Addition):
    """What one way of inferring found on the test photos."""

    @cached_property
    def headlines(self) -> dict[str, Any]:
        """The scores that matter, as metrics/test.json has them.

        Raises:
            BrokenRecord: they are gone, or not what they must be.
        """
        try:
            return cast("dict[str, Any]", read_record(self.folder / HEADLINES, Headlines))
        except FileNotFoundError:
            raise BrokenRecord(f"{self.folder / HEADLINES}: is gone") from None

    @property
    def flip_average(self) -> bool:
        """Whether a prediction was the mean of a photo's and of its mirror image's."""
        return bool(self.manifest.get("settings", {}).get("infer.flip_average", False))


def is_as_sealed(record: Mapping[str, Any]) -> bool:
    """Tell whether a record says what it said when it was sealed; records of before had no seal."""
    return bool(record.get("sha256", seal_of(record)) == seal_of(record))
