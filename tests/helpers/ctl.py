"""kdhtctl as a process, for tests: how it is called, and what a good and a bad end look like."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from daemons import KDHTCTL, run


class Ctl:
    """Calls kdhtctl, which talks to the daemon behind `control` unless told otherwise."""

    def __init__(self, control: Path, **environment: str) -> None:
        self._env = {**os.environ, "KDHT_SOCKET": str(control), "COLUMNS": "200", **environment}

    def __call__(self, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
        return run([*KDHTCTL, *arguments], **{"env": self._env, "text": False, **options})

    def json(self, *arguments: str | Path) -> Any:
        """What a good call gives as JSON."""
        return json.loads(good(self(*arguments, "--json")))

    def start(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Without waiting."""
        command = [os.fspath(part) for part in (*KDHTCTL, *arguments)]
        return subprocess.Popen(
            command, env=self._env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


def good(done: subprocess.CompletedProcess[bytes]) -> bytes:
    """Its standard output: it ended well, without a complaint."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout


def complained(code: int, said: bytes, expected: int, *words: str) -> None:
    """One line on standard error, or one object with --json, and the right code."""
    text = said.decode()
    assert code == expected, text
    if text.startswith("{"):
        assert json.loads(text)["exit_code"] == expected
    else:
        assert text.startswith("kdhtctl: ")
    assert text.count("\n") == 1, text
    for word in words:
        assert word in text


def bad(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """One line on standard error, nothing on standard output, and the right code."""
    complained(done.returncode, done.stderr, code, *words)
    assert done.stdout == b""
