"""Set up torch: device, threads, deterministic kernels, and the reuse of freed memory."""

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
        threads: number of CPU threads, as train.threads.

    Raises:
        TrainingError: train.device is cuda, and there is no GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    # Like use_deterministic_algorithms(True), which would also import torch's compiler and take a second.
    torch.set_deterministic_debug_mode("error")
    # Filling new memory costs time, and no code here reads memory that it has not written.
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
    """Let the C library keep up to 2 GB of freed memory for later use, if it has a setting for that.

    A training step or a photo takes the same hundred megabytes as the one before, and each page of new
    memory costs a page fault. Results do not depend on it. Source: mallopt(3).
    """
    trim_threshold, mmap_threshold, never = -1, -3, 2**31 - 1
    with suppress(AttributeError):  # macOS and musl have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, never)
        mallopt(mmap_threshold, never)


def environment(device: torch.device) -> dict[str, str | int]:
    """Return the versions and the hardware on which the bits of trained weights depend, for the record."""
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
    """Return the kind of the processor, as far as the system names it."""
    wanted = {"model name": "", "cpu family": "family ", "model": "model ", "CPU part": "part "}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        if found := [f"{words}{values[key]}" for key, words in wanted.items() if key in values]:
            return ", ".join(found)
    return platform.processor() or platform.machine()
