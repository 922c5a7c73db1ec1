"""petseg: reproducible training of networks that cut pets out of photos.

The Python API, which docs/python.md describes:

    import petseg

    model = petseg.load()
    cut = model.predict("rex.jpg")
    cut.save("out")

Importing petseg imports neither torch nor any other package that is slow to import.
"""

import os
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from petseg.predict.api import Cut, Model

__all__ = ["Cut", "Model", "__version__", "load"]
__version__ = "0.2.0"


def load(
    model: "str | os.PathLike[str] | None" = None, *, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> "Model":
    """Load a trained model.

    Args:
        model: a ``.safetensors`` file with its ``.json`` file beside it; a folder that ``petseg runs export
            --model`` wrote; inside a project, the beginning of a run's key, or ``"champion"``. If it is not
            given: the model that the installed package carries; or else, inside a project, the champion, or
            the run with the best validation Dice.
        device: ``"auto"`` uses a GPU if there is one.

    Raises:
        petseg.errors.UsageError: there is no such model.
        petseg.errors.DamagedFile: its files can't be read, or do not belong together.
        petseg.errors.TrainingError: the device is ``"cuda"`` and there is no GPU.
    """
    from petseg.predict.api import load_model  # not above: it imports torch

    return load_model(model, device)


def __getattr__(name: str) -> Any:
    if name in ("Cut", "Model"):
        from petseg.predict import api

        return getattr(api, name)
    raise AttributeError(f"module 'petseg' has no attribute {name!r}")
