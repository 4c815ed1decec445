"""The XDP program's loads on machines that may reorder them: what the compiler makes of its fences."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["-O2", "-target", "bpf", "-mcpu=v3", "-fno-strict-aliasing", f"-I{ROOT / 'include'}"]
SYSTEM = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
def test_a_fence_is_an_atomic_that_gives_a_value() -> None:
    """One that gives none orders nothing on arm64. A read of a bucket has two: behind each look at the sequence."""
    command = ["clang", *FLAGS, SYSTEM, "-S", ROOT / "bpf/kdht_xdp.bpf.c", "-o", "-"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert made.count("atomic_fetch_add") >= 2
    assert "lock *" not in made
