"""Real kdhtd processes for tests: `--dev` nodes on loopback, each with an address of its own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from paths import ROOT

from kdht.errors import NoDaemon
from kdht.lab.wait import wait_until
from kdht.program import control_client

KDHTD = [sys.executable, "-m", "kdht.daemon.main"]
KDHTCTL = [sys.executable, "-m", "kdht.cli.main"]
END_TIMEOUT = 30.0


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """A command to its end, with what it said."""
    options = {"capture_output": True, "text": True, "timeout": 60, "cwd": ROOT, **options}
    return subprocess.run([os.fspath(part) for part in command], **options)


def free_port(*hosts: str) -> int:
    """A UDP port that is free on all of them now."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            first.bind((hosts[0], 0))
            try:
                for host in hosts[1:]:
                    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.bind((host, first.getsockname()[1]))
            except OSError:
                continue
            return first.getsockname()[1]


def free_port_ipv6() -> int:
    """A UDP port that is free on ::1 now."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        port: int = sock.getsockname()[1]
        return port


class DevNode:
    """One `kdhtd`, started: --dev with its data in `home`, or with the configuration in `config`."""

    def __init__(
        self,
        home: Path,
        listen: str,
        *arguments: str,
        prefix: Sequence[str] = (),
        config: Path | None = None,
        **options: Any,
    ) -> None:
        self.home = home
        self.listen = listen
        self.control = home / "control.sock"
        self.arguments = arguments
        self._prefix = prefix
        self._config = config
        self._options = options
        self.start()

    def start(self) -> None:
        dev = ["--dev", "--listen", self.listen, "--data-dir", str(self.home)]
        how = ["--config", str(self._config)] if self._config else dev
        command = [*self._prefix, *KDHTD, *how, *self.arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, **self._options)

    def call(self, method: str) -> Any:
        return control_client.call(self.control, method)

    def serves(self) -> bool:
        """Whether it answers on its control socket."""
        try:
            return bool(self.call("status")["node_id"])
        except NoDaemon:
            return False

    def wait_ready(self, contacts: int = 0) -> "DevNode":
        """Until it is ready and knows so many others; fails at once if it ended."""
        wait_until(lambda: self._is_ready(contacts), f"{self.listen} to be ready")
        return self

    def _is_ready(self, contacts: int) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"{self.listen} ended with {self.process.returncode}: {self.said()}")
        try:
            status = self.call("status")
        except NoDaemon:
            return False
        return status["ready"] and status["contacts"] >= contacts

    def said(self) -> str:
        """All of its standard error; it has ended."""
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            return stream.read()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal it and wait: the exit status and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=END_TIMEOUT)
        return self.process.returncode, said

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def nobody() -> list[str]:
    """What to put before a command so that it runs without root's rights, where the caller is root.

    It may read everything, for the checkout may lie in a directory that is only root's.
    """
    if os.geteuid() != 0:
        return []
    reads = "-all,+dac_read_search"
    user = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    return ["setpriv", *user, f"--inh-caps={reads}", f"--ambient-caps={reads}"]


def open_to_all(path: Path) -> None:
    """Let other users reach and write a test's directory, whose parents pytest makes private."""
    path.chmod(0o777)
    for parent in path.parents:
        if parent.stat().st_mode & 0o001:
            return
        parent.chmod(0o755)
