"""What an installation has: all that the programs read beside their code, and nothing that was made on the way."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from installed import PROJECT, make_sdist
from paths import ROOT

from kdht.daemon.pages.web import FILES
from kdht.datapath.host import ruleset
from kdht.errors import DatapathError

PAGE = Path("kdht/daemon/pages/page")
OF_THE_REPOSITORY = {".ci/run", ".gitignore"}
OF_SETUPTOOLS = {"PKG-INFO", "setup.cfg"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> set[Path]:
    """The files that setuptools takes into a wheel beside the extensions."""
    target = tmp_path_factory.mktemp("lib")
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return {path.relative_to(target) for path in target.rglob("*") if path.is_file()}


def test_the_sdist_has_the_whole_repository_and_nothing_that_was_made(tmp_path: Path) -> None:
    tracked, untracked = (_listed("--cached"), _listed("--others"))
    with tarfile.open(make_sdist(tmp_path / "dist")) as archive:
        found = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert tracked - OF_THE_REPOSITORY - found == set()
    assert found - OF_SETUPTOOLS - tracked - untracked == set()


def _listed(which: str) -> set[str]:
    """The files that git knows, or those that it would take."""
    command = ["git", "ls-files", "-z", "--exclude-standard", which]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).exists()}


def test_every_module_and_stub_is_there(installed: set[Path]) -> None:
    wanted = {path.relative_to(ROOT) for kind in ("py", "pyi") for path in (ROOT / "kdht").rglob(f"*.{kind}")}
    assert wanted <= installed
    assert Path("kdht/py.typed") in installed


def test_the_web_page_is_there(installed: set[Path]) -> None:
    wanted = {PAGE / path.name for path in (ROOT / PAGE).iterdir()}
    assert {path.name for path in wanted} == {name for name, _ in FILES.values()}
    assert wanted == {path for path in installed if path.parent == PAGE}


def test_nothing_that_a_build_made_is_there(installed: set[Path]) -> None:
    code = {
        path for path in installed if path.parent != PAGE and path != Path("kdht/faces/http/openapi.json")
    }
    assert {path.suffix for path in code} <= {".py", ".pyi", ".pxd", ".typed"}
    assert {path.parts[0] for path in installed} == {"kdht"}


def test_the_ruleset_is_installed_where_it_is_looked_for(tmp_path: Path, monkeypatch) -> None:
    (where, files), *others = PROJECT["tool"]["setuptools"]["data-files"].items()
    assert not others
    assert all((ROOT / file).is_file() for file in files)
    monkeypatch.setattr(ruleset, "__file__", str(tmp_path / "site-packages/kdht/datapath/host/ruleset.py"))
    monkeypatch.setattr(ruleset.sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(DatapathError, match=r"the ruleset kdht\.nft is missing; install kdht again"):
        ruleset.ruleset_path()
    for file in files:
        place = tmp_path / "data" / where / Path(file).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((ROOT / file).read_bytes())
    assert ruleset.ruleset_path().read_bytes() == (ROOT / "nft/kdht.nft").read_bytes()


@pytest.mark.parametrize("name", PROJECT["project"]["scripts"])
def test_every_program_says_its_version(name: str) -> None:
    module, _, function = PROJECT["project"]["scripts"][name].partition(":")
    code = f"import sys; sys.argv[0] = {name!r}; from {module} import {function} as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{name} ")
