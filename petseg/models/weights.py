"""Tensors in a file that proves itself: safetensors, with a hash of all it holds inside.

Nothing here is pickled, so nothing is executed on loading. A file is written so that a crash
leaves the old one or the new one (petseg.core.files.written_atomically).
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from petseg.core.files import read_file, written_atomically
from petseg.errors import DamagedFile

_KEY = "petseg"  # the only key: safetensors writes several in no fixed order
_SAFETENSORS_HEAD = slice(8, 10)  # of the file: after the length, JSON begins


def sha256_tensors(tensors: dict[str, Tensor]) -> str:
    """Return one sha256 of tensors: their names, types, shapes and values, in whatever order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.numpy().reshape(-1).view("uint8").data)
    return digest.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Write tensors and what is to be known about them, crash-safe.

    Args:
        path: the file.
        tensors: by name; on any device.
        about: whatever JSON can hold.

    Returns:
        ``sha256_tensors(tensors)``.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = sha256_tensors(tensors)
    text = json.dumps({"tensors_sha256": digest, "about": about}, sort_keys=True)
    sealed = json.dumps({"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    with written_atomically(path) as file:
        file.write(safetensors.torch.save(tensors, {_KEY: sealed}))
    return digest


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote: the tensors, on the CPU, and ``about``.

    Raises:
        DamagedFile: the file is absent, cut short, of another format, or one bit of it differs.
        OSError: it can't be read, which says nothing of what it holds.
    """
    try:
        content = read_file(path)  # not mapped: an error of the disk would kill who reads a mapped file
        sealed = json.loads(_metadata(content)[_KEY])
        tensors = safetensors.torch.load(content)
        text: str = sealed["text"]
        if hashlib.sha256(text.encode()).hexdigest() != sealed["sha256"]:
            raise DamagedFile(f"{path}: is damaged (its description differs from its hash)")
        described = json.loads(text)
        if sha256_tensors(tensors) != described["tensors_sha256"]:
            raise DamagedFile(f"{path}: is damaged (its tensors differ from their hash)")
        about: dict[str, Any] = described["about"]
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DamagedFile(f"{path}: can't be read as petseg weights ({error.strerror})") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{path}: can't be read as petseg weights ({error})") from None
    return tensors, about


def _metadata(content: bytes) -> dict[str, str]:
    """Return what a safetensors file says of itself beside its tensors.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is no such file.
    """
    length = int.from_bytes(content[:8], "little")
    if length > len(content):
        raise ValueError("it is cut short, or no safetensors")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata


def is_sealed(path: Path) -> bool:
    """Tell whether a file says of itself that ``save_tensors`` wrote it, be it whole or not."""
    try:
        return _KEY in _metadata(read_file(path))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def load_foreign_tensors(path: Path) -> dict[str, Tensor]:
    """Read weights that others have written: a safetensors file, or a state dict by torch.save.

    Raises:
        DamagedFile: it is neither. Nothing in the file is executed.
    """
    content = read_file(path)
    try:
        if content[_SAFETENSORS_HEAD] == b'{"':
            return safetensors.torch.load(content)
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  (the unpickler raises anything on bytes that are no weights)
        raise DamagedFile(f"{path}: can't be read as weights, by safetensors or torch.save") from None
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise DamagedFile(f"{path}: holds no state dict (names and their tensors)")
    return dict(weights)


def validated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, of a state's ``tensors()``, the weights that were validated; other tensors as they are."""
    for part in ("average/", "network/"):
        if found := {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}:
            return found
    return dict(tensors)
