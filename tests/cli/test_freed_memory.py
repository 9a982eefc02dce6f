"""Memory that one step freed serves the next: the system does not clear its pages again."""

import platform
import subprocess
import sys

import pytest

PAGES_TAKEN = """
import resource
import sys

import torch

from lightning_seq.cli.freed_memory import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()


def step():
    activations = [torch.ones(mib << 18) for mib in (4, 28, 8, 24, 12, 20, 4)]


step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
taken = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(taken * resource.getpagesize() / (100 << 20))  # of a step's memory
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_step_takes_what_the_one_before_freed():
    def taken(*words):
        command = [sys.executable, "-c", PAGES_TAKEN, *words]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert taken("keep") < 0.5 < taken()
