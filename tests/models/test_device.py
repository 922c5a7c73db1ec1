"""The settings that set_up_torch makes for its process."""

import platform
import subprocess
import sys

import pytest

from tests.support import ROOT

ALLOCATIONS = """
import resource, sys
import torch
from petseg.models.device import set_up_torch
if sys.argv[1] == "set up":
    set_up_torch("cpu", 1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(20)][-1])  # only after some allocations does one fit into freed memory
"""


@pytest.mark.whole
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be set to keep memory")
def test_freed_memory_is_reused() -> None:
    fresh, kept = (page_faults(how) for how in ("not", "set up"))
    assert kept < 100 < 10_000 < fresh  # 80 MB are 19,532 pages


def page_faults(how: str) -> int:
    command = [sys.executable, "-c", ALLOCATIONS, how]
    return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
