"""Ctrl-C while a program still imports: it ends at once, by the signal, and says nothing."""

import signal
import subprocess
import sys
import tomllib

import pytest
from paths import ROOT

PROGRAMS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
BEGIN = """
import os, signal, sys
class PressedAt:
    def find_spec(self, name, path=None, target=None):
        if name == {at!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, PressedAt())
{before}
from {module} import {function} as main
sys.argv = ["program", "--version"]
main()
"""


def started(program: str, *, at: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """As the installed script starts it. Ctrl-C is pressed when it begins to import `at`."""
    module, function = PROGRAMS[program].split(":")
    code = BEGIN.format(at=at, before=before, module=module, function=function)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("at", ["click", "kdht.program.boundary"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_during_the_imports_ends_a_program_quietly(program, at):
    done = started(program, at=at)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_shall_ignore_ctrl_c_ignores_it_from_the_first_moment(program):
    done = started(program, at="click", before="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(program)
