"""Gets the peers: Debian's packages with apt, as root; those from PyPI came with the dependency group `bench`.

No service is started by it: a policy-rc.d forbids that while apt runs (invoke-rc.d(8)). Nor is one started
at the next boot: Debian enables what it installs, so what this module installed is disabled again.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {
    "python3-opendht": "/usr/lib/python3/dist-packages/opendht*.so",
    "redis-server": "/usr/bin/redis-server",
    "redis-tools": "/usr/bin/redis-benchmark",
    "memcached": "/usr/bin/memcached",
    "etcd-server": "/usr/bin/etcd",
    "serf": "/usr/bin/serf",
    "postgresql-15": "/usr/lib/postgresql/15/bin/postgres",
}
"""Each with a file that shows that it is there."""
SERVICES = {
    "redis-server": "redis-server",
    "memcached": "memcached",
    "etcd-server": "etcd",
    "serf": "serf",
    "postgresql-15": "postgresql",
}
"""The systemd service of each package that has one."""
POLICY = Path("/usr/sbin/policy-rc.d")


def install(tell: Callable[[str], None]) -> None:
    """Install missing peers as far as possible. Reports the others."""
    absent = [name for name, sign in PACKAGES.items() if not list(Path("/").glob(sign.lstrip("/")))]
    if not absent:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        tell(f"not installed: {', '.join(absent)}: that needs root and apt-get")
        return
    tell(f"installing {', '.join(absent)}")
    with _without_services():
        for package in absent:
            if not _apt("install", "-y", "--no-install-recommends", package) and not (
                _apt("update") and _apt("install", "-y", "--no-install-recommends", package)
            ):
                tell(f"apt-get cannot install {package}")
            elif package in SERVICES and shutil.which("systemctl"):
                subprocess.run(
                    ["systemctl", "--quiet", "disable", SERVICES[package]], capture_output=True, check=False
                )


def _apt(*arguments: str) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-q", *arguments], env=environment, capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def _without_services() -> Iterator[None]:
    """Keeps an existing policy."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
