"""docs/tutorial.md followed word for word, by a user without root; what the commands print is what it shows.

All blocks go into one bash, in their order. The block that installs kdht is typed in tests/install/test_install.py, where its sources are
compiled: here `~/kdht` has this checkout's programs. As root it runs in a network namespace of its own.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from daemons import nobody, open_to_all
from fences import Fence, fences, shows
from paths import ROOT

pytestmark = pytest.mark.cluster

DOCUMENT = ROOT / "docs/tutorial.md"
DONE = "the block has ended with status"
OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
PROGRAMS = {"kdhtd": "kdht.daemon.main", "kdhtctl": "kdht.cli.main"}


class Terminal:
    """A bash that is typed into, and told apart by a line what each block printed."""

    def __init__(self, home: Path) -> None:
        prefix = [*OWN_NETWORK, *nobody()] if os.geteuid() == 0 else []
        known = {
            name: value for name, value in os.environ.items() if not name.startswith(("KDHT_SOCKET", "XDG_"))
        }
        self.complaints = home / "stderr"
        """What the commands, and the shell itself, say on standard error."""
        with self.complaints.open("w") as complaints:
            self._process = subprocess.Popen(
                [*prefix, which("bash") or "bash"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                start_new_session=True,
                cwd=home,
                env={**known, "HOME": str(home), "COLUMNS": "200"},
            )

    def type(self, script: str) -> tuple[str, str]:
        """What it printed, and the status of its last command."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"set -e\n{script}\nset +e; echo '{DONE}' $?\n")
        stdin.flush()
        said = ""
        for line in stdout:
            before, end, status = line.partition(DONE)
            said += before
            if end:
                return said, status.strip()
        return said, "none: the shell has ended"

    def close(self) -> None:
        """End the shell and the nodes that it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """In a home directory with kdht in ~/kdht, as after the first step."""
    with tempfile.TemporaryDirectory(prefix="kdht-tutorial-") as path:
        home = Path(path)
        open_to_all(home)
        programs = home / "kdht/bin"
        programs.mkdir(parents=True)
        python = f'PYTHONPATH="{ROOT}" exec "{sys.executable}"'
        for name, run in {
            **{name: f"-m {module}" for name, module in PROGRAMS.items()},
            "python": "",
        }.items():
            (programs / name).write_text(f'#!/bin/sh\n{python} {run} "$@"\n')
            (programs / name).chmod(0o755)
        found = Terminal(home)
        yield found
        found.close()


def steps() -> list[tuple[Fence, str | None]]:
    """Each block to type, with what it shows the user: None where it shows nothing."""
    found: list[tuple[Fence, str | None]] = []
    for fence in fences(DOCUMENT):
        if fence.kind == "output":
            found[-1] = (found[-1][0], fence.text)
        elif fence.kind == "sh" and "install" not in fence.words:
            found.append((fence, None))
    return found


def test_every_block_is_typed_or_compared() -> None:
    assert {fence.kind for fence in fences(DOCUMENT)} == {"sh", "output"}
    assert len(steps()) > 8


@pytest.mark.timeout(120)
def test_the_document_word_for_word(terminal: Terminal) -> None:
    for block, shown in steps():
        said, status = terminal.type(block.text)
        where = f"docs/tutorial.md, line {block.line}"
        assert status == "0", f"{where}: status {status}: {said}{terminal.complaints.read_text()}"
        assert shown is None or shows(shown, said), f"{where} prints {said!r}"
