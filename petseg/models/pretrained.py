"""Open the folder of the weights that an encoder starts from; random weights need no file."""

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
MAX_WEIGHTS_BYTES = 1_000_000_000  # of a file with weights from elsewhere, and of its tensors


class About(TypedDict):
    """encoder.json: the weights that the encoder starts from, and the hash of their file."""

    origin: Annotated[str, Len(1)]
    sha256: str | None


def described(folder: Path) -> About:
    """Read encoder.json, which says what weights a folder holds.

    Raises:
        BrokenRecord: it does not have the required form.
        OSError: it can't be read.
    """
    return read_record(folder / ABOUT, About)


@dataclass(frozen=True)
class Encoder:
    """The weights that the encoder starts from, as their folder describes them.

    Attributes:
        origin: ``none``, ``imagenet``, or the name of a file.
        sha256: hash of the file; None if the encoder starts from random weights.
        path: the file, or None.
    """

    origin: str
    sha256: str | None
    path: Path | None

    @classmethod
    def open(cls, folder: Path, choice: str) -> Self:
        """Read what ``fetch_encoder`` has put into a folder.

        Args:
            folder: the folder.
            choice: the present value of model.encoder_weights.

        Raises:
            EncoderError: the files are missing, belong to another choice, or have changed.
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
        """The name of these weights in the key of a run, wherever the file came from."""
        return NONE if self.sha256 is None else f"sha256:{self.sha256[:16]}"


def origin_of(choice: str) -> str:
    """Return none, imagenet, or the name of the file that model.encoder_weights names."""
    return Path(choice).name
