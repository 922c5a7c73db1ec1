"""Tensors in a file that proves itself: safetensors, with a hash of all it holds inside.

Nothing here is pickled, so nothing is executed on loading. A file is written so that a crash
leaves the old one or the new one (petseg.core.files.written_atomically).
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.core.checked import Count, checked, parsed
from petseg.core.files import read_file, written_atomically
from petseg.errors import BrokenRecord, DamagedFile

_KEY = "petseg"  # the only key: safetensors writes several in no fixed order
_METADATA = "its metadata"
_SAFETENSORS_HEAD = slice(8, 10)  # of the file: after the length, JSON begins


class _Header(TypedDict):
    __metadata__: NotRequired[dict[str, str]]


class _Sealed(TypedDict):
    """What the metadata hold: ``text`` is JSON, of the second form below."""

    text: str
    sha256: str


class _Epoch(TypedDict):
    epoch: NotRequired[Count]


class _About(_Epoch):
    run_key: NotRequired[str]
    record: NotRequired[_Epoch]


class _Text(TypedDict):
    tensors_sha256: str
    about: _About


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
        sealed = checked(parsed(_metadata(content)[_KEY].encode(), _METADATA), _Sealed, _METADATA)
        tensors = safetensors.torch.load(content)
        text = sealed["text"].encode()
        if hashlib.sha256(text).hexdigest() != sealed["sha256"]:
            raise DamagedFile(f"{path}: is damaged (its description differs from its hash)")
        described = checked(parsed(text, _METADATA, nan=True), _Text, _METADATA)
        if sha256_tensors(tensors) != described["tensors_sha256"]:
            raise DamagedFile(f"{path}: is damaged (its tensors differ from their hash)")
        about = cast("dict[str, Any]", described["about"])
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DamagedFile(f"{path}: can't be read as petseg weights ({error.strerror})") from None
    except (safetensors.SafetensorError, BrokenRecord, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path}: can't be read as petseg weights ({error})") from None
    return tensors, about


def _metadata(content: bytes) -> dict[str, str]:
    """Return what a safetensors file says of itself beside its tensors.

    Raises:
        BrokenRecord, ValueError: it is no such file.
    """
    length = int.from_bytes(content[:8], "little")
    if length > len(content):
        raise ValueError("it is cut short, or no safetensors")
    header = checked(parsed(content[8 : 8 + length], _METADATA), _Header, _METADATA)
    return header.get("__metadata__", {})


def is_sealed(path: Path) -> bool:
    """Tell whether a file says of itself that ``save_tensors`` wrote it, be it whole or not."""
    try:
        return _KEY in _metadata(read_file(path))
    except (BrokenRecord, ValueError):
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
