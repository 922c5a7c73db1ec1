"""Files that a crash does not leave half written: the order of the flushes, and what an error leaves."""

import os
import stat
from pathlib import Path

import pytest

from petseg.core.files import copy_atomically, published_folder, sha256_file, written_atomically


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flushes and renames, in order."""
    found: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        found.append(f"fsync {kind}")
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        found.append(f"rename to {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return found


def stop_after(_: int) -> None:
    raise ValueError("stop")


def test_a_file_is_flushed_then_renamed_then_its_folder_is_flushed(tmp_path: Path, events: list[str]) -> None:
    with written_atomically(tmp_path / "new/file") as file:
        file.write(b"content")
        assert not (tmp_path / "new/file").exists()
    # The first flush belongs to the creation of "new".
    assert events == ["fsync folder", "fsync file", "rename to file", "fsync folder"]
    assert (tmp_path / "new/file").read_bytes() == b"content"


def test_a_file_that_need_not_be_durable_is_not_flushed(tmp_path: Path, events: list[str]) -> None:
    with written_atomically(tmp_path / "file", durable=False) as file:
        file.write(b"content")
    assert events == ["rename to file"]


def test_an_error_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"), written_atomically(path) as file:
        stop_after(file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_copy_has_the_same_bytes_and_is_durable(tmp_path: Path, events: list[str]) -> None:
    (tmp_path / "source").write_bytes(bytes(range(256)) * 1000)
    copy_atomically(tmp_path / "source", tmp_path / "target")
    assert sha256_file(tmp_path / "source") == sha256_file(tmp_path / "target")
    assert events == ["fsync file", "rename to target", "fsync folder"]


def test_a_folder_is_published_whole_and_read_only(tmp_path: Path, events: list[str]) -> None:
    with published_folder(tmp_path / "made") as draft:
        (draft / "file").write_text("content")
        assert not (tmp_path / "made").exists()
    assert events == ["rename to made", "fsync folder"]
    assert stat.S_IMODE((tmp_path / "made/file").stat().st_mode) == 0o444
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_whose_creation_fails_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), published_folder(tmp_path / "made") as draft:
        stop_after((draft / "file").write_text("content"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_published_first_stays(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/file").write_text("theirs")
    with pytest.raises(OSError, match="not empty"), published_folder(tmp_path / "made") as draft:
        (draft / "file").write_text("ours")
    assert (tmp_path / "made/file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
