"""The weights that an encoder begins with, in a folder: random ones need no file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from annotated_types import Len
from typing_extensions import TypedDict

from petseg.core.checked import read_record
from petseg.core.files import sha256_file, why_not
from petseg.errors import BrokenRecord, EncoderError

NONE, IMAGENET = "none", "imagenet"
WEIGHTS, ABOUT = "resnet34.pth", "encoder.json"
MAX_WEIGHTS_BYTES = 1_000_000_000  # of a file of anybody's weights, and of its tensors


class About(TypedDict):
    """encoder.json: what the encoder begins with, and the hash of its file."""

    origin: Annotated[str, Len(1)]
    sha256: str | None


def described(folder: Path) -> About:
    """Read what says which weights a folder holds.

    Raises:
        BrokenRecord: it is not what it must be.
        OSError: it can't be read.
    """
    return read_record(folder / ABOUT, About)


@dataclass(frozen=True)
class Encoder:
    """What the encoder begins with, as its folder says.

    Attributes:
        origin: ``none``, ``imagenet``, or the name of a file.
        sha256: of the file; None where the encoder begins with random weights.
        path: the file, or None.
    """

    origin: str
    sha256: str | None
    path: Path | None

    @classmethod
    def open(cls, folder: Path, choice: str) -> Self:
        """Read what ``fetch_encoder`` has put into a folder.

        Args:
            folder: that it was put into.
            choice: what model.encoder_weights says now.

        Raises:
            EncoderError: it is not there, is of another choice, or is not what it was.
        """
        try:
            about = described(folder)
            found = cls(about["origin"], about["sha256"], folder / WEIGHTS if about["sha256"] else None)
            whole = found.path is None or sha256_file(found.path) == found.sha256
        except (OSError, BrokenRecord) as error:
            raise EncoderError(f"{folder}: can't be read ({why_not(error)}); run dvc repro encoder") from None
        if found.origin != origin_of(choice):
            raise EncoderError(
                f"{folder}: holds {found.origin}, but model.encoder_weights is {choice}; "
                "run dvc repro encoder"
            )
        if not whole:
            raise EncoderError(f"{found.path}: differs from its sha256; run dvc repro -f encoder")
        return found

    @property
    def name(self) -> str:
        """What names the runs that begin with these weights, wherever the file came from."""
        return NONE if self.sha256 is None else f"sha256:{self.sha256[:16]}"


def origin_of(choice: str) -> str:
    """Return none, imagenet, or the name of the file that model.encoder_weights names."""
    return Path(choice).name
