"""A virtual environment with nothing but what pip installs into it, and a node that runs in it."""

import os
import subprocess
from pathlib import Path

from daemons import END_TIMEOUT, free_port, run
from installed import PYTHON, TIMEOUT

from kdht.lab.wait import wait_until


class CleanEnvironment:
    """In the directory `home`. pip finds the packages of `wheels` alone; the only other programs are those of `tools`."""

    def __init__(self, home: Path, wheels: Path, tools: Path) -> None:
        self.bin = home / "bin"
        self._home = home
        home.mkdir()
        # What the optimiser does is not asked here, and it takes most of the time.
        compiler = home / "compiler"
        compiler.write_text('#!/bin/sh\nexec gcc "$@" -O0\n')
        compiler.chmod(0o755)
        self._environment = {
            "PATH": str(tools),
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "CC": str(compiler),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        self.run(PYTHON, "-m", "venv", home)

    def run(self, *command: str | Path, timeout: float = TIMEOUT) -> str:
        """What a command says, away from the sources; it has to succeed."""
        done = run(command, cwd=self._home, env=self._environment, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, what: str | Path) -> None:
        self.run(self.bin / "pip", "install", "-q", what, timeout=3 * TIMEOUT)  # all may be compiled

    def has(self, module: str) -> bool:
        find = f"import importlib.util as u; print(u.find_spec({module!r}) is not None)"
        return self.run(self.bin / "python", "-c", find).strip() == "True"

    def keeps_a_value(self) -> bool:
        """Whether a node on loopback gives back what it was given."""
        address = f"127.0.0.1:{free_port('127.0.0.1')}"
        command = [self.bin / "kdhtd", "--dev", "--listen", address, "--data-dir", self._home / "data"]
        node = subprocess.Popen(command, cwd=self._home, env=self._environment)
        try:
            wait_until(lambda: (self._home / "data/control.sock").exists(), "the control socket")
            self.run(self.bin / "kdhtctl", "put", "--node", address, "greeting", "hello")
            return self.run(self.bin / "kdhtctl", "get", "--node", address, "greeting").strip() == "hello"
        finally:
            node.terminate()
            node.wait(END_TIMEOUT)
