"""Weights of any origin are kept, whatever their dtype, or refused before they take memory."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from petseg.core.files import sha256_file
from petseg.errors import DamagedFile, EncoderError, UsageError
from petseg.models.encoder_download import fetch_encoder
from petseg.models.resnet34_unet import ResNet34UNet, load_encoder
from petseg.models.weights import load_foreign_tensors, load_tensors, save_tensors, sha256_tensors
from petseg.store.adopt import adopt
from petseg.store.identify import Weights
from petseg.store.layout import ORIGINAL, WEIGHTS
from tests.support import PEAK_KB, ROOT

DTYPES = (
    *(torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int8, torch.uint16, torch.bool, torch.complex64),
)
ONE = torch.arange(6.0).reshape(2, 3)
KEPT: dict[str, dict[str, Tensor]] = {
    **{str(dtype): {"w": ONE.to(dtype), "one": torch.ones((), dtype=dtype)} for dtype in DTYPES},
    "tied": {"w": ONE, "v": ONE, "part": ONE[1]},
    "turned": {"w": ONE.T, "every other": ONE[:, ::2]},
    "repeated": {"w": torch.ones(1).expand(3, 4)},
    "empty": {"w": torch.empty(0, 3), "v": torch.empty(0)},
    "parameters": {"w": torch.nn.Parameter(ONE)},
    "none": {},
}
REFUSED: dict[str, tuple[Any, str]] = {
    "sparse": ({"w": ONE.to_sparse()}, "w is sparse, nested or quantized; save it as a dense tensor"),
    "without values": ({"w": torch.empty(3, device="meta")}, "w has no values"),
    "complex128": (
        {"w": ONE.to(torch.complex128)},
        "w has the type complex128, which safetensors can't store",
    ),
    "too large": ({"w": torch.ones(1).expand(4_000_000_000)}, "its tensors have more than 1 GB"),
    "too many": ({f"w{n}": torch.ones(1).expand(100_000_000) for n in range(9)}, "have more than 1 GB"),
    "a name of no text": ({"\ud800": ONE}, r"\\ud800 has the type float32, which safetensors can't store"),
    "the name of metadata": (
        {"__metadata__": ONE},
        "__metadata__ has the type float32, which safetensors can't store",
    ),
    "a list": ([ONE], "holds no state dict"),
    "numbers as names": ({1: ONE}, "holds no state dict"),
}


def saved(weights: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(weights, file, **options)
    return file.getvalue()


def repacked(content: bytes, zeros: int) -> bytes:
    """Compress a file of torch.save, and give its tensor this many zero bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as entry:
                if name.endswith("data/0"):
                    for _ in range(zeros // 10_000_000):
                        entry.write(bytes(10_000_000))
                else:
                    entry.write(old.read(name))
    return file.getvalue()


def a_header(length: int) -> bytes:
    return struct.pack("<Q", length) + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def a_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    return file.getvalue()


BYTES = {
    "an absurd header": (a_header(2**62), "by safetensors or torch.save"),
    "a negative header": (b"\xff" * 8 + b'{"', "by safetensors or torch.save"),
    "nested JSON": (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "by safetensors or torch.save"),
    "a pickle of lists": (b"\x80\x02" + b"]" * 5_000_000, "its pickle has more than 4 MB"),
    "a tar": (a_tar(), "it is a tar archive"),
    "half an archive": (saved({"w": ONE})[:-40], "it is a damaged archive"),
    "nothing": (b"", "by safetensors or torch.save"),
    "text": (b"no weights", "by safetensors or torch.save"),
}


LEGACY = [
    kind for kind in KEPT if "float8" not in kind and "uint16" not in kind
]  # that format does not know these


@pytest.mark.parametrize(
    ("kind", "legacy"), [*((kind, False) for kind in KEPT), *((kind, True) for kind in LEGACY)]
)
def test_weights_are_adopted_byte_for_byte_and_as_safetensors(
    tmp_path: Path, kind: str, legacy: bool
) -> None:
    file, store = tmp_path / "w.pt", tmp_path / "runs"
    file.write_bytes(saved(KEPT[kind], _use_new_zipfile_serialization=not legacy))
    run, is_new = adopt(file, store, "")
    assert is_new
    assert (run.folder / f"{ORIGINAL}.pt").read_bytes() == file.read_bytes()
    tensors, _ = load_tensors(run.folder / WEIGHTS)
    assert tensors.keys() == KEPT[kind].keys()
    for name, value in KEPT[kind].items():
        assert tensors[name].dtype == value.dtype
        assert torch.equal(
            tensors[name].view(value.shape).to(torch.complex64), value.detach().to(torch.complex64)
        )
    assert run.manifest["tensors_sha256"] == Weights.read(file).sha256 == sha256_tensors(tensors)


def test_the_hash_of_common_dtypes_has_not_changed() -> None:
    one = {
        "a": torch.arange(6, dtype=torch.float32).view(2, 3),
        "b": torch.tensor(7),
        "c": torch.tensor(True),
    }
    assert sha256_tensors(one) == "1906870907453d0a8e743bee1032eceea49c5f430f0d97effba5be534497fe1c"


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_weights_are_kept_as_a_file_and_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    weights, reason = REFUSED[kind]
    file, store = tmp_path / "w.pt", tmp_path / "runs"
    file.write_bytes(saved(weights))
    check_refused(file, store, reason)


@pytest.mark.parametrize("kind", BYTES)
def test_any_bytes_are_kept_as_a_file_and_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "w.pt"
    file.write_bytes(BYTES[kind][0])
    check_refused(file, tmp_path / "runs", BYTES[kind][1])


def check_refused(file: Path, store: Path, reason: str) -> None:
    with pytest.raises(DamagedFile, match=reason) as error:
        load_foreign_tensors(file)
    assert len(str(error.value).splitlines()) == 1
    run, _ = adopt(file, store, "")
    assert sha256_file(run.folder / f"{ORIGINAL}.pt") == sha256_file(file)
    assert reason.replace("\\\\", "\\") in run.manifest["adopted"]["unreadable"]
    assert not list(store.glob(".*.tmp"))


def test_an_irregular_or_huge_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(40_000_000_000)
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "status").symlink_to("/proc/self/status")
    for name in ("pipe", "zero", "status", "sparse"):
        with pytest.raises(UsageError, match=r"is no regular file|has 40,000,000,000 bytes, more than"):
            adopt(tmp_path / name, tmp_path / "runs", "")
    with pytest.raises(DamagedFile, match="it has 40,000,000,000 bytes, more than 1,000,000,000"):
        load_foreign_tensors(tmp_path / "sparse")
    with pytest.raises(EncoderError, match="has 40,000,000,000 bytes, more than"):
        fetch_encoder(str(tmp_path / "sparse"), tmp_path / "into", tmp_path)
    assert not list(tmp_path.glob("runs/*/manifest.json"))
    assert not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.whole
def test_an_archive_that_expands_is_refused_in_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    file.write_bytes(repacked(saved({"w": torch.zeros(4)}), 1_050_000_000))
    code = (
        "import sys; from pathlib import Path; from petseg.models.weights import load_foreign_tensors\n"
        "from petseg.errors import DamagedFile\n"
        f"{PEAK_KB}\n"
        "before = peak_kb()\n"
        "try: load_foreign_tensors(Path(sys.argv[1]))\n"
        "except DamagedFile as e: print(str(e).partition(': ')[2], peak_kb() - before, sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, check=True, cwd=ROOT)
    reason, kilobytes = done.stdout.decode().split("|")
    assert reason == "can't be read as weights: its archive expands to more than 1 GB"
    assert int(kilobytes) < 100_000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.float64])
def test_an_encoder_loads_weights_of_any_real_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    network = ResNet34UNet(width=1)
    weights = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in network.encoder.state_dict().items()
    }
    torch.save(weights, tmp_path / "w.pth")
    if dtype.is_complex:
        with pytest.raises(EncoderError, match=r"holds complex numbers in conv1.weight"):
            load_encoder(network, tmp_path / "w.pth")
    else:
        load_encoder(network, tmp_path / "w.pth")
        assert torch.equal(network.encoder.conv1.weight, weights["conv1.weight"].float())


def test_a_sealed_file_with_an_odd_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"w": ONE}, {})
    odd = {"petseg": json.dumps({"text": "[" * 100_000, "sha256": ""})}
    path.write_bytes(safetensors.torch.save({"w": ONE}, odd))
    with pytest.raises(DamagedFile, match=r"can't be read as petseg weights|is damaged"):
        Weights.read(path)
