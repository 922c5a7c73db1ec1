"""Save and load tensors in files that can be verified: safetensors with a hash of the content inside.

These files hold no pickle, so nothing is executed on loading. A file is written so that a crash leaves
the old one or the new one (petseg.core.files.written_atomically).
"""

import errno
import hashlib
import io
import json
import pickletools
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict  # noqa: UP035  (pydantic asks for it below 3.12)

from petseg.core.checked import Count, checked, parsed
from petseg.core.files import naming, open_file, read_file, written_atomically
from petseg.core.textfiles import printable
from petseg.errors import BrokenRecord, DamagedFile
from petseg.models.pretrained import MAX_WEIGHTS_BYTES

_KEY = "petseg"  # the only key, because safetensors writes several in no fixed order
_METADATA = "its metadata"
_SAFETENSORS_HEAD = slice(8, 10)  # bytes of the file, after the length, where JSON begins
_MAX_HEADER_BYTES = 10_000_000  # of a safetensors file
_MAX_PICKLE_BYTES = 4_000_000  # of a torch.save file, without the values of its tensors
_LEGACY_PICKLES = 5  # at the beginning of an old torch.save file, which is not an archive
_MORE = f"more than {MAX_WEIGHTS_BYTES / 1e9:g} GB"
_LARGE_PICKLE = f"its pickle has more than {_MAX_PICKLE_BYTES / 1e6:g} MB"


class _Header(TypedDict):
    __metadata__: NotRequired[dict[str, str]]


class _Sealed(TypedDict):
    """The metadata; ``text`` is JSON of the form ``_Text``."""

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
    """Return one sha256 of tensors: their names, types, shapes and values, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)  # numpy has no bfloat16 or float8
    return digest.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Write tensors and a description of them, crash-safe.

    Args:
        path: the file.
        tensors: the tensors, by name; on any device.
        about: the description; anything that JSON can hold.

    Returns:
        ``sha256_tensors(tensors)``.
    """
    tensors = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    digest = sha256_tensors(tensors)
    text = json.dumps({"tensors_sha256": digest, "about": about}, sort_keys=True)
    sealed = json.dumps({"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    with written_atomically(path) as file:
        file.write(safetensors.torch.save(tensors, {_KEY: sealed}))
    return digest


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy the tensors that share memory with an earlier one, because safetensors refuses them."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen:
            tensors[name] = tensor.clone()
        seen.add(place)
    return tensors


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote: the tensors, on the CPU, and ``about``.

    Raises:
        DamagedFile: the file is missing, cut short or of another format, or a bit of it differs.
        OSError: it can't be read, which says nothing about its content.
    """
    try:
        content = read_file(path)  # not mapped: a disk error kills a process that reads a mapped file
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
    """Return the metadata of a safetensors file.

    Args:
        content: the file, or its part before the tensors.

    Raises:
        BrokenRecord, ValueError: it is not such a file.
    """
    length = int.from_bytes(content[:8], "little")
    if length > len(content):
        raise ValueError("it is cut short, or no safetensors")
    header = checked(parsed(content[8 : 8 + length], _METADATA), _Header, _METADATA)
    return header.get("__metadata__", {})


def is_sealed(path: Path) -> bool:
    """Return whether a file claims that ``save_tensors`` wrote it, even if it is damaged."""
    with naming(path), open_file(path) as file:
        content = file.read(8)
        length = int.from_bytes(content, "little")
        content += file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        return _KEY in _metadata(content)
    except (BrokenRecord, ValueError):
        return False


def load_foreign_tensors(path: Path) -> dict[str, Tensor]:
    """Read weights that another program wrote: a safetensors file, or a state dict by torch.save.

    Raises:
        DamagedFile: it is neither, or would take too much memory. Nothing in the file is executed.
    """
    try:
        content = read_file(path, MAX_WEIGHTS_BYTES)
    except OSError as error:
        if error.errno != errno.EOVERFLOW:
            raise
        raise DamagedFile(f"{path}: can't be read as weights: it {error.strerror}") from None
    if content[_SAFETENSORS_HEAD] != b'{"' and (why := _why_too_much(content)):
        raise DamagedFile(f"{path}: can't be read as weights: {why}")
    try:
        if content[_SAFETENSORS_HEAD] == b'{"':
            if int.from_bytes(content[:8], "little") > _MAX_HEADER_BYTES:
                raise ValueError
            weights = safetensors.torch.load(content)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about tensors that are refused below, such as sparse ones
                weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  (the unpickler raises anything for bytes that are not weights)
        raise DamagedFile(f"{path}: can't be read as weights, by safetensors or torch.save") from None
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise DamagedFile(f"{path}: holds no state dict (names and their tensors)")
    if sum(value.numel() * value.element_size() for value in weights.values()) > MAX_WEIGHTS_BYTES:
        raise DamagedFile(f"{path}: can't be read as weights: its tensors have {_MORE}")
    for name, value in weights.items():
        if why := _why_unusable(name, value):
            raise DamagedFile(f"{path}: can't be read as weights: {printable(name):.80} {why}")
    return dict(weights)


def _why_too_much(content: bytes) -> str | None:
    """Return why torch.load would take too much memory for a file; None if it would not.

    torch does not compress its archives, but another program may; and each byte of a pickle may make an
    object.
    """
    file = io.BytesIO(content)
    if content[:4] == b"PK\3\4":
        try:
            entries = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error):
            return "it is a damaged archive"
        if sum(entry.file_size for entry in entries) > MAX_WEIGHTS_BYTES:
            return f"its archive expands to {_MORE}"
        pickles = [entry.file_size for entry in entries if entry.filename.endswith(".pkl")]
        return _LARGE_PICKLE if sum(pickles) > _MAX_PICKLE_BYTES else None
    if tarfile.is_tarfile(file):
        return "it is a tar archive"
    file.seek(0)
    try:
        for _ in range(_LEGACY_PICKLES):
            for _, _, place in pickletools.genops(file):
                if place is not None and place > _MAX_PICKLE_BYTES:
                    return _LARGE_PICKLE
    except Exception:  # noqa: BLE001  (not a pickle; torch.load gets no further)
        return None
    return None


def _why_unusable(name: str, value: Tensor) -> str | None:
    """Return why a tensor can't be stored as safetensors; None if it can."""
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        return "is sparse, nested or quantized; save it as a dense tensor"
    if value.is_meta:
        return "has no values"
    try:
        name.encode()
        one = torch.empty(1, dtype=value.dtype)
        kept = safetensors.torch.load(safetensors.torch.save({name: one}))
    except Exception:  # noqa: BLE001  (for a dtype or a name that safetensors can't store)
        kept = {}
    if name not in kept or kept[name].dtype != value.dtype:
        return f"has the type {str(value.dtype).removeprefix('torch.')}, which safetensors can't store"
    return None


def validated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the validated weights of a training state; tensors of another kind are returned unchanged."""
    for part in ("average/", "network/"):
        if found := {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}:
            return found
    return dict(tensors)
