"""kdht built and installed as a user does it, from a copy of the sources, without a network.

What pip would fetch is in a folder of wheels, made of the packages that the tests themselves run with.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from email import message_from_string
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from ci import lacks
from daemons import run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

TIMEOUT = 800
"""Seconds. A build takes one or two minutes alone, and several beside other builds and tests."""
DEBIAN_TREE = ROOT / "build/debian/tree.tar"
"""A bare Debian, made by `make test` as root (scripts/debian-tree)."""
TOOLS = "tools"
"""The folder, beside the wheels, of what builds kdht."""
HOST = "host"
"""The folder that stands for the host's own packages. What is there is too old for the tools."""
LICENSES = "packaging>=24.2"
"""What setuptools reads `license` in pyproject.toml with. Its own copy comes last on the path, after the host's packages."""


def _python() -> str:
    """Python of the version that the packages were built for, the system's if it is that: all users reach it."""
    usual = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return usual if os.path.exists(usual) else os.path.realpath(sys.executable)


PYTHON = _python()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROGRAMS = tuple(PROJECT["project"]["scripts"])


def make_sdist(target: Path) -> Path:
    """The source distribution of this tree, in `target`. One process at a time: setuptools gathers it in the tree."""
    metadata = target / "metadata"
    metadata.mkdir(parents=True)
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", metadata]
    with (ROOT / "setup.py").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run([*command, "sdist", "--dist-dir", target], timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    (made,) = target.glob("*.tar.gz")
    return made


def unpack(sdist: Path, target: Path) -> Path:
    """Its folder in `target`."""
    with tarfile.open(sdist) as archive:
        archive.extractall(target, filter="data")
    return target / sdist.name.removesuffix(".tar.gz")


def copy_sources(target: Path) -> Path:
    """The sources and nothing that was built, as a fresh clone has them."""
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    present = [name for name in listed if name and (ROOT / os.fsdecode(name)).exists()]
    target.mkdir()
    copy = ["xargs", "-0", "cp", "--parents", "-t", str(target)]
    subprocess.run(copy, input=b"\0".join(present), cwd=ROOT, check=True)
    return target


def take_built(sources: Path, *, without: str = "") -> None:
    """Put what is compiled here into a copy of the sources, where setuptools looks for it: a minute of two processors less.

    After `make_wheels`, whose Cython is else newer. What has `without` in its name is left out: compiled there, if it can be.
    """
    library = sources / f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    # The sources that Cython made first: what is older than its source is compiled again.
    for kinds, target in ((("*.c",), sources), (("*.so", "*.bpf.o"), library)):
        for path in (path for kind in kinds for path in (ROOT / "kdht").rglob(kind)):
            if without and without in path.name:
                continue
            copy = target / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def offline(wheels: Path) -> dict[str, str]:
    """The environment in which pip takes everything from `wheels`.

    It builds with the tools unpacked there: in an environment of its own they would be newer than
    what was compiled before, and all would be compiled again.
    """
    return {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say yes
        "PYTHONPATH": f"{wheels / TOOLS}:{wheels / HOST}",
    }


def make(
    sources: Path,
    wheels: Path,
    *arguments: str,
    prefix: Sequence[str] = (),
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """make in a copy of the sources; `prefix` before the command, `more` in its environment."""
    environment = {**os.environ, **offline(wheels), **(more or {})}
    command = [*prefix, "make", *arguments, f"PYTHON={PYTHON}"]
    return run(command, cwd=sources, env=environment, timeout=TIMEOUT)


def debian_package(factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this tree. All processes of a parallel run share one, for it takes half a minute to make."""
    if not shutil.which("dh"):
        lacks("needs debhelper")
    own = factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "package"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if made := list(shared.glob("*.deb")):
            return made[0]
        with tempfile.TemporaryDirectory(dir=shared) as directory:
            return Path(shutil.move(_make_package(Path(directory)), shared))


def _make_package(directory: Path) -> Path:
    """By `make deb` from the sdist, with what is compiled here already."""
    sources, wheels = unpack(make_sdist(directory / "sdist"), directory), make_wheels(directory / "wheels")
    take_built(sources)
    done = make(sources, wheels, "deb", "ARGS=-d", more={"DEB_COMPRESSION": "gzip"})
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (sources / "dist").glob("*.deb")
    return made


def make_wheels(target: Path) -> Path:
    """A wheel of each package that kdht needs to run; what it needs to be built, unpacked."""
    target.mkdir()
    wanted = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted += extra
    for package in _with_needs(wanted).values():
        _pack(package, target)
    for package in _with_needs([*PROJECT["build-system"]["requires"], LICENSES]).values():
        with zipfile.ZipFile(_pack(package, target)) as wheel:
            wheel.extractall(target / TOOLS)
    _make_host_packages(target / HOST)
    return target


def _make_host_packages(target: Path) -> None:
    """A `packaging` as old as Debian 12's, of which nothing works: every host shows whether it is used."""
    package = target / "packaging"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "23.0"\n')


def _with_needs(texts: Iterable[str]) -> dict[str, Distribution]:
    """The packages named by requirements, and all that they require in turn."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in texts]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found[name] = distribution(name)
        waiting += [Requirement(text) for text in found[name].requires or ()]
    return found


def _pack(package: Distribution, target: Path) -> Path:
    """The installed files as a wheel again; pip makes scripts and compiled files anew."""
    tags = message_from_string(package.read_text("WHEEL") or "").get_all("Tag", [])
    name = canonicalize_name(package.name).replace("-", "_")
    python, abi, platform = tags[0].split("-")
    made = target / f"{name}-{package.version}-{python}-{abi}-{platform}.whl"
    with zipfile.ZipFile(made, "w") as wheel:
        for file in package.files or ():
            path = Path(str(package.locate_file(file)))
            if ".." not in file.parts and file.suffix != ".pyc" and path.is_file():
                wheel.write(path, str(file))
    return made
