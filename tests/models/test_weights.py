import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from petseg.core.files import written_atomically
from petseg.errors import DamagedFile
from petseg.models.weights import load_tensors, save_tensors, sha256_tensors
from tests.support import ROOT

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.tensor(7),
    "c": torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    ),
}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
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


def test_one_flipped_bit_anywhere_is_seen(tmp_path: Path) -> None:
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
            # Whitespace that pads the header may differ; nothing else may.
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
