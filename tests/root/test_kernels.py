"""The XDP program on another kernel than this machine's, in an emulated machine."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

SCRIPT = Path(__file__).parents[2] / "scripts/kernels"
NO_KERNEL = 3
"""The script's status where apt gives it no kernel."""
MOST_INSTRUCTIONS = 250_000
"""The limit of the kernel is a million. Three times what 6.1 walks now: enough for a change, too little for an explosion."""


def test_the_kernel_of_debian_12_takes_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    """Its verifier learns less from conditions than later ones, and walks more instructions."""
    done = subprocess.run([SCRIPT, "load", "6.1"], capture_output=True, text=True, check=False)
    if done.returncode == NO_KERNEL:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    walked = re.search(r"6\.1\..*: loaded: .*processed (\d+) insns", done.stdout)
    assert walked is not None, done.stdout
    with capsys.disabled():
        print(f"\nLinux 6.1: {int(walked[1]):,} verified instructions")
    assert int(walked[1]) <= MOST_INSTRUCTIONS
