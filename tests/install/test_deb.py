"""The Debian package in a bare Debian 12: lintian, installation, an upgrade with data in it, removal and purge.

The tree comes from build/debian/tree.tar (scripts/debian-tree): with the archives of what the package needs, for the
tests have no network.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree, which

import pytest
from ci import lacks
from daemons import END_TIMEOUT, run
from installed import DEBIAN_TREE as TREE
from installed import PROGRAMS, debian_package
from paths import ROOT

from kdht import __version__
from kdht.lab.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

OLDER = "0.0.9"
CONFIG = """[node]
listen = ["127.0.0.1"]
[[key]]
file = "/etc/kdht/secret"
[access]
writes = "open"
[datapath]
kind = "socket"
"""
APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o APT::Sandbox::User=root"


class Tree:
    """A Debian of its own. Its commands end with the mounts that they need."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, script: str) -> list[str]:
        enter = 'mount -t proc proc "$0/proc"; mount --bind /dev "$0/dev"; exec chroot "$0" sh -ec "$1"'
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", enter, str(self.root), script]

    def run(self, script: str) -> str:
        done = run(
            self.command(script), cwd="/", timeout=280, env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def named(self) -> set[str]:
        """All files with kdht in their names, without apt's and dpkg's own notes."""
        found = self.run("find / -xdev -name '*kdht*' -not -path '/proc/*' -not -path '/dev/*'").split()
        return {path for path in found if not path.startswith(("/var/cache/", "/var/log/", "/root/"))}


@contextmanager
def node(tree: Tree) -> Iterator[None]:
    """A node of the tree's configuration, ready."""
    process = subprocess.Popen(tree.command("exec kdhtd"), cwd="/")
    try:
        wait_until(
            lambda: run(tree.command("kdhtctl status --json"), cwd="/").stdout.find('"ready": true') > 0,
            "the node of the package",
            120,
        )
        yield
    finally:
        process.terminate()
        process.wait(END_TIMEOUT)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this tree."""
    return debian_package(tmp_path_factory)


@pytest.fixture(scope="module")
def older(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package as an older version, with another configuration as shipped."""
    directory = tmp_path_factory.mktemp("older")
    run(["dpkg-deb", "--raw-extract", package, directory / "tree"], check=True)
    control = directory / "tree/DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {__version__}", f"Version: {OLDER}"))
    (directory / "tree/etc/kdht/kdhtd.toml").write_text("# as older versions had it\n")
    run(["dpkg-deb", "-Zgzip", "--build", directory / "tree", directory], check=True)
    (made,) = directory.glob("*.deb")
    return made


@pytest.fixture
def tree(tmp_path: Path, package: Path, older: Path) -> Iterator[Tree]:
    if not TREE.exists():
        lacks("needs build/debian/tree.tar, which make test makes as root (scripts/debian-tree)")
    root = tmp_path / "tree"
    root.mkdir()
    run(["tar", "-xf", TREE, "-C", root, "--exclude=./dev/*"], check=True, timeout=280)
    for file in (package, older):
        run(["cp", file, root / "root"], check=True)
    yield Tree(root)
    rmtree(root)


def test_lintian_finds_no_error(package: Path) -> None:
    if not which("lintian"):
        lacks("needs lintian")
    done = run(["lintian", "--allow-root", "--fail-on", "error", package], timeout=280)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_changelog_names_the_version() -> None:
    assert (ROOT / "debian/changelog").read_text().startswith(f"kdht ({__version__})")


def test_apt_installs_it_an_upgrade_keeps_data_and_identity_and_purge_leaves_nothing(
    tree: Tree, package: Path, older: Path
) -> None:
    assert tree.named() == set()
    tree.run(f"{APT} install /root/{older.name}")
    for name in PROGRAMS:
        assert tree.run(f"{name} --version") == f"{name} {__version__}"
    assert (
        tree.run("getent passwd kdht; dpkg-query -W -f '${Conffiles}' kdht").count("/etc/kdht/kdhtd.toml")
        == 1
    )

    (tree.root / "etc/kdht/kdhtd.toml").write_text(CONFIG)
    tree.run("kdhtctl key new /etc/kdht/secret")
    with node(tree):
        tree.run("kdhtctl put greeting hello")
    identity = (tree.root / "var/lib/kdht/node_id").read_text()
    tree.run(f"{APT} -o Dpkg::Options::=--force-confold install /root/{package.name}")
    assert tree.run("dpkg-query -W -f '${Version}' kdht") == __version__
    assert (tree.root / "etc/kdht/kdhtd.toml").read_text() == CONFIG
    with node(tree):
        assert tree.run("kdhtctl get greeting") == "hello"
    assert (tree.root / "var/lib/kdht/node_id").read_text() == identity

    tree.run(f"{APT} remove kdht")
    assert (tree.root / "var/lib/kdht/node_id").read_text() == identity
    assert (tree.root / "etc/kdht/secret").exists()
    tree.run(f"{APT} purge kdht")
    assert tree.named() == set()
