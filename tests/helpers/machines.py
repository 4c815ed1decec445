"""A laboratory's host as a machine of its own: systemd is its process 1, and what is written stays inside.

    with Machine(lab.host("n1", ipv4="10.0.0.1/24"), {sources: "/usr/src/kdht"}, wheels, log) as n1:
        n1.run("systemctl start kdhtd")

Its root directory is this machine's, with a layer in memory on top (overlayfs); /dev, /run, /tmp and /proc are new,
and it knows no process, mount or control group outside. Of the host's units only the journal runs.
pip takes packages from the folder of wheels, for there is no other network than the laboratory's.
"""

import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from installed import offline

from kdht.errors import LabError
from kdht.lab.netns import Host
from kdht.lab.wait import wait_until

BOOT = Path(__file__).with_name("boot_machine")
WHEELS = "/opt/wheels-of-tests"
SHELL = {
    **offline(Path(WHEELS)),
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class Machine:
    """Booted in the block. `shared` are directories of this machine's, by where they are inside."""

    def __init__(self, host: Host, shared: Mapping[Path, str], wheels: Path, log: Path) -> None:
        self.host = host
        self.name = host.name
        self._log = log
        self._shared = {wheels: WHEELS, **shared}
        self._init = 0

    def __enter__(self) -> "Machine":
        shares = [f"{outside}:{inside}" for outside, inside in self._shared.items()]
        environment = {"PATH": SHELL["PATH"]}
        with self._log.open("wb") as log:
            command = [str(BOOT), self.host.namespace, *shares]
            self._process = self.host.popen(command, stdout=log, stderr=log, env=environment)
        self._init = wait_until(self._find_init, f"{self.name} to boot")
        wait_until(self._is_up, f"systemd of {self.name}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)

    def run(
        self, script: str, *, check: bool = True, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """A script for bash, inside, ended by its first command that fails. Raises LabError, with what it said."""
        done = self._inside(["bash", "-euo", "pipefail", "-c", script], timeout)
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {script}: {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def _inside(self, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        enter = [
            "nsenter",
            "-t",
            str(self._init),
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
            "--root",
            "--wd",
        ]
        environment = [f"{name}={value}" for name, value in SHELL.items()]
        return self.host.run([*enter, "env", "-i", *environment, *command], check=False, timeout=timeout)

    def _find_init(self) -> int | None:
        """The process that is systemd: below boot_machine, its grouped self, and unshare."""
        if self._process.poll() is not None:
            raise LabError(f"{self.name} did not boot: {self._log.read_text()[-2000:]}")
        for process in _below(self._process.pid):
            with suppress(OSError):  # it has ended
                if Path(f"/proc/{process}/comm").read_text() == "systemd\n":
                    return process
        return None

    def _is_up(self) -> bool:
        state = self._inside(["systemctl", "is-system-running"], 10).stdout.strip()
        return state in {"running", "degraded"}


def _below(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [each for child in map(int, children) for each in (child, *_below(child))]
