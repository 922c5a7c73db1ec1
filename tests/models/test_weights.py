import hashlib
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from petseg.core.files import written_atomically
from petseg.errors import DamagedFile
from petseg.models.weights import is_sealed, load_tensors, save_tensors, sha256_tensors
from tests.support import ROOT

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.tensor(7),
    "c": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    ),
}


def test_saved_tensors_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep/down/x.safetensors"
    digest = save_tensors(path, TENSORS, {"epoch": 3, "note": "Zürich"})
    tensors, about = load_tensors(path)
    assert about == {"epoch": 3, "note": "Zürich"}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert sha256_tensors(tensors) == digest == sha256_tensors(TENSORS)
    assert [file.name for file in path.parent.iterdir()] == ["x.safetensors"]


def test_the_same_tensors_give_the_same_file_whatever_its_name(tmp_path: Path) -> None:
    save_tensors(tmp_path / "one", TENSORS, {"x": 1, "y": 2})
    save_tensors(tmp_path / "other", dict(reversed(TENSORS.items())), {"y": 2, "x": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        TENSORS | {"b": torch.tensor(8)},
        TENSORS | {"b": torch.tensor(7.0)},
        TENSORS | {"a": TENSORS["a"].view(3, 2)},
        {"z" + name: tensor for name, tensor in TENSORS.items()},
    ],
)
def test_the_hash_tells_tensors_apart(changed: dict[str, torch.Tensor]) -> None:
    assert sha256_tensors(changed) != sha256_tensors(TENSORS)


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"epoch": 3})
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in (1, 128):
            path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
            try:
                tensors, about = load_tensors(path)
            except DamagedFile:
                continue
            # Only the whitespace that pads the header may differ.
            assert sha256_tensors(tensors) == sha256_tensors(TENSORS)
            assert about == {"epoch": 3}


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, 400, -1])
def test_a_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedFile, match="can't be read as petseg weights"):
        load_tensors(path)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DamagedFile):
        load_tensors(path)
    file = io.BytesIO()
    torch.save({"w": Trap()}, file)
    path.write_bytes(file.getvalue())
    with pytest.raises(DamagedFile):
        load_tensors(path)


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def break_off_midway() -> None:
        with written_atomically(path) as file:
            file.write(b"ne")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        break_off_midway()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from petseg.core.files import written_atomically\n"
        "with written_atomically(Path(sys.argv[1])) as file:\n"
        "    file.write(b'new' * 100000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"


def sealed_file(path: Path, text: object) -> None:
    """Write weights with this text as metadata, and a valid seal."""
    proof = hashlib.sha256(str(text).encode(errors="replace")).hexdigest()
    sealed = json.dumps({"text": text, "sha256": proof})
    path.write_bytes(safetensors.torch.save(ONE, {"petseg": sealed}))


ONE = {"w": torch.ones(2)}
ABOUT = {"run_key": "aa", "record": {"epoch": 1, "val_dice": float("nan")}, "history": []}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"about": None}, "about: Input should be a valid dictionary"),
        ({"about": []}, "about: Input should be a valid dictionary"),
        ({"about": {"run_key": 5}}, "about.run_key: Input should be a valid string"),
        ({"about": {"record": []}}, "about.record: Input should be a valid dictionary"),
        ({"about": {"record": {"epoch": "1"}}}, "about.record.epoch: Input should be a valid integer"),
        ({"about": {"epoch": True}}, "about.epoch: Input should be a valid integer"),
        ({"about": {"epoch": float("inf")}}, "Infinity is no number of a record"),
        ({"tensors_sha256": 5}, "tensors_sha256: Input should be a valid string"),
    ],
)
def test_odd_metadata_with_a_valid_seal_is_named(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    path, metadata = tmp_path / "x.safetensors", {"tensors_sha256": sha256_tensors(ONE), "about": ABOUT}
    sealed_file(path, json.dumps(metadata))
    assert load_tensors(path)[1]["record"]["epoch"] == 1
    sealed_file(path, json.dumps(metadata | changes))
    with pytest.raises(DamagedFile) as refused:
        load_tensors(path)
    assert str(refused.value).startswith(f"{path}: can't be read as petseg weights (its metadata: ")
    assert reason in str(refused.value)


@pytest.mark.parametrize("text", ["[]", "{}", "[" * 99_999, '{"a": 1, "a": 2}', "\ud800", ""])
def test_sealed_text_that_is_no_metadata_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.safetensors"
    sealed_file(path, text)
    with pytest.raises(DamagedFile, match="can't be read as petseg weights") as refused:
        load_tensors(path)
    assert "\n" not in str(refused.value)
    sealed_file(path, 5)
    with pytest.raises(DamagedFile, match="its metadata: text: Input should be a valid string"):
        load_tensors(path)


@pytest.mark.parametrize(
    "header", [b"[" * 99_999, b"{" * 99_999, b"\xff", b"[]", b'{"__metadata__": 5}', b""]
)
def test_an_odd_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert not is_sealed(path)
    with pytest.raises(DamagedFile, match="can't be read as petseg weights"):
        load_tensors(path)
