"""torch's settings: device, threads, deterministic kernels, and what becomes of freed memory."""

import ctypes
import os
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch

from petseg.errors import TrainingError


def set_up_torch(device: str, threads: int) -> torch.device:
    """Choose the device, fix the number of threads, ask for deterministic kernels, and keep freed memory.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, as train.device.
        threads: of the CPU, as train.threads.

    Raises:
        TrainingError: train.device is cuda and there is none.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # As use_deterministic_algorithms(True), which would also import torch's compiler, for a second.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh memory costs time, and nothing here reads what it has not written.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  (unknown to mypy)
    _keep_freed_memory()
    return choose_device(device)


def choose_device(device: str) -> torch.device:
    """Return the device on which torch is to compute.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, as train.device.

    Raises:
        TrainingError: train.device is cuda and there is none.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise TrainingError("train.device: cuda, but torch finds no GPU; use auto or cpu")
    return torch.device("cuda" if found and device != "cpu" else "cpu")


def _keep_freed_memory() -> None:
    """Have the C library keep freed memory, up to 2 GB, for what comes next, where it can be told so.

    A training step or a photo takes the same hundred megabytes as the one before, and each page of fresh
    memory costs a fault. No bit depends on it. Source: mallopt(3).
    """
    trim_threshold, mmap_threshold, never = -1, -3, 2**31 - 1
    with suppress(AttributeError):  # macOS and musl have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, never)
        mallopt(mmap_threshold, never)


def environment(device: torch.device) -> dict[str, str | int]:
    """Describe what else the bits of trained weights depend on, for the record."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
        "pillow": version("pillow"),
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Return what kind of processor this is, as far as the system says."""
    wanted = {"model name": "", "cpu family": "family ", "model": "model ", "CPU part": "part "}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if found := [f"{words}{values[key]}" for key, words in wanted.items() if key in values]:
            return ", ".join(found)
    return platform.processor() or platform.machine()
