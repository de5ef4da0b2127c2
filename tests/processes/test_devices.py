"""What choosing a device sets up in this process."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from reflow.devices import choose_device

def faults():
    for _ in range(10):
        torch.ones(12_000_000)  # 48 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = faults()
between = faults()
choose_device("cpu")
faults()
kept = faults()
print(between - before, faults() - kept)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library has no mallopt")
def test_memory_that_tensors_free_on_a_cpu_is_used_again() -> None:
    """A page of 4 kB that the system hands out costs a fault; ten tensors of 48 MB are 117,000 of them."""
    answer = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    without, kept = map(int, answer.stdout.split())
    assert kept < 1000
    assert without > 100 * (kept + 1)
