"""Locks between processes."""

import multiprocessing
import os
from pathlib import Path

import pytest

from petseg.core.locks import Held, held

FORK = multiprocessing.get_context("fork")


def hold(
    path: Path, taken: "multiprocessing.synchronize.Event", free: "multiprocessing.synchronize.Event"
) -> None:
    with held(path):
        taken.set()
        free.wait(60)


def test_a_held_lock_is_not_taken_and_names_its_process(tmp_path: Path) -> None:
    path, taken, free = tmp_path / "new/lock", FORK.Event(), FORK.Event()
    other = FORK.Process(target=hold, args=(path, taken, free))
    other.start()
    try:
        assert taken.wait(60)
        with pytest.raises(Held) as error, held(path, wait=False):
            pass
        assert error.value.pid == str(other.pid)
    finally:
        free.set()
        other.join()
    with held(path, wait=False):
        assert path.read_text() == str(os.getpid())


def test_a_lock_is_free_again_after_a_kill(tmp_path: Path) -> None:
    path, taken = tmp_path / "lock", FORK.Event()
    other = FORK.Process(target=hold, args=(path, taken, FORK.Event()))
    other.start()
    assert taken.wait(60)
    other.kill()
    other.join()
    with held(path, wait=False):
        pass


def count_up(path: Path, times: int) -> None:
    for _ in range(times):
        with held(path.with_name("lock")):
            path.write_text(str(int(path.read_text()) + 1))


def test_processes_that_wait_for_a_lock_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    processes = [FORK.Process(target=count_up, args=(path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert path.read_text() == "60"
