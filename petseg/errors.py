"""The errors of petseg, as a tree.

PetsegError                     a mistake or a fault outside the code; one line on stderr, no traceback
├── UsageError                  a command was called with the wrong arguments
├── ParamsError                 params.yaml (or a -S override) is wrong; every mistake is listed
│   └── SecretInParams          a URL in the params holds what may be a password or a token
├── InputsChanged               params or code were edited while a stage ran
├── UnreachedCode               a stage has loaded project code that its run key does not cover
├── DownloadError               an archive can't be fetched
├── EncoderError                the weights that an encoder should start from can't be found or used
├── ArchiveError                an archive is damaged or hostile
├── DataError                   the photos, or the arrays made from them, can't be used
├── StoreError                  the store of runs can't be read or written
│   ├── RunLocked               another process trains the same run
│   ├── DamagedFile             a file differs from its recorded hash
│   ├── BrokenRecord            a record of the store does not have the required form
│   ├── PromotionRefused        a run is not known to be as good as the champion
│   └── ExportError             a network can't be exported to another format
└── TrainingError
    └── NonFiniteLoss           the loss became NaN or infinite

BadImage                        one photo or trimap is refused; preprocess counts it and continues
ShapeMismatch                   a bug in the caller: two tensors that must have the same shape do not
"""

from collections.abc import Sequence


class PetsegError(Exception):
    """Base of every error that is shown without a traceback.

    Args:
        lines: the message, one line for each mistake. Each argument is shown on one line: a newline in a
            file name does not start a new line.
    """

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines

    def __str__(self) -> str:
        return "\n".join(self.lines)


class UsageError(PetsegError):
    """A command was called with the wrong arguments."""

    exit_code = 2


class ParamsError(PetsegError):
    """params.yaml is wrong; the message has one line for each mistake."""

    exit_code = 2


class SecretInParams(ParamsError):
    """A URL in the params has a user, a password or a query; the message does not repeat them."""


class InputsChanged(PetsegError):
    """Params or code were edited while a stage ran, so its outputs belong to neither state."""


class UnreachedCode(PetsegError):
    """A stage has loaded project code that no run key covers, because no import statement names it."""


class DownloadError(PetsegError):
    """An archive can't be fetched."""


class EncoderError(PetsegError):
    """The weights that an encoder should start from can't be found, or belong to another network."""


class ArchiveError(PetsegError):
    """An archive is damaged or hostile."""


class DataError(PetsegError):
    """The photos, or the arrays made from them, can't be used."""


class StoreError(PetsegError):
    """The store of runs can't be read or written."""


class RunLocked(StoreError):
    """Another process trains the same run."""


class DamagedFile(StoreError):
    """A file differs from its recorded hash, or can't be read."""


class BrokenRecord(StoreError):
    """A record of the store does not have the required form."""


class PromotionRefused(StoreError):
    """A run is not known to be as good as today's champion."""


class ExportError(StoreError):
    """A network can't be exported to another format."""


class TrainingError(PetsegError):
    """Training can't go on."""


class NonFiniteLoss(TrainingError):
    """The loss became NaN or infinite."""


class BadImage(ValueError):
    """One photo or trimap is refused; the text is the reason."""


class ShapeMismatch(ValueError):
    """Two tensors that must have the same shape do not."""

    def __init__(self, what: str, one: Sequence[int], other: Sequence[int]) -> None:
        super().__init__(f"{what}: shapes {tuple(one)} and {tuple(other)} differ")
