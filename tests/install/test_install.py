"""From the sdist: a wheel built without root, git, clang and libbpf; make install and make uninstall, in place and under DESTDIR."""

import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

import pytest
from clean_environment import CleanEnvironment
from daemons import nobody, open_to_all, run
from fences import fences
from installed import (
    PROGRAMS,
    PROJECT,
    PYTHON,
    TIMEOUT,
    make,
    make_sdist,
    make_wheels,
    offline,
    take_built,
    unpack,
)
from paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FILES = (
    "lib/systemd/system/kdhtd.service",
    "lib/systemd/system/kdhtd@.service",
    "lib/systemd/system/kdhtd-socket.service",
    "lib/sysusers.d/kdht.conf",
    "share/man/man8/kdhtd.8",
    "share/man/man5/kdhtd.toml.5",
    "share/doc/kdht/examples/first.toml",
    "share/doc/kdht/docs/operating.md",
    "share/doc/kdht/docs/design/README.md",
    *(f"share/bash-completion/completions/{name}" for name in PROGRAMS),
    *(f"share/zsh/site-functions/_{name}" for name in PROGRAMS),
    *(f"share/fish/vendor_completions.d/{name}.fish" for name in PROGRAMS),
)


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """One that all users reach, as pytest's are not for long: each of its runs closes their common parent."""
    with tempfile.TemporaryDirectory(prefix="kdht-install-") as path:
        open_to_all(Path(path))
        yield Path(path)


@pytest.fixture(scope="module")
def wheels(open_directory: Path) -> Path:
    """What pip finds."""
    return make_wheels(open_directory / "wheels")


@pytest.fixture(scope="module")
def sdist(open_directory: Path) -> Path:
    return make_sdist(open_directory / "sdist")


@pytest.fixture(scope="module")
def sources(sdist: Path, wheels: Path, open_directory: Path) -> Path:
    """What is in the sdist, without git, and what of the build needs neither clang nor libbpf."""
    sources = unpack(sdist, open_directory)
    take_built(sources, without="_ebpf.")
    for made in (sources / "build").rglob("*.bpf.o"):
        made.unlink()
    return sources


@pytest.fixture(scope="module")
def bare(open_directory: Path) -> Path:
    """A directory of programs, without git and clang."""
    bare = open_directory / "bin"
    bare.mkdir()
    for tool in Path("/usr/bin").iterdir():
        if not tool.name.startswith(("clang", "git")):
            (bare / tool.name).symlink_to(tool)
    return bare


@pytest.fixture(scope="module")
def wheel(sources: Path, wheels: Path, bare: Path) -> tuple[Path, str]:
    """A wheel that nobody in particular built where neither clang nor libbpf is, and what was said."""
    (bare / "bpf").mkdir()
    (bare / "bpf/libbpf.h").write_text('#error "no libbpf here"\n')
    for path in (sources, *sources.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o755)
    more = {
        "PATH": str(bare),
        "CFLAGS": f"-I{bare}",
        "HOME": str(sources),
        "PIP_ARGS": "-v",
    }
    done = make(sources, wheels, "wheel", prefix=nobody(), more=more)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    (built,) = (sources / "dist").glob("*.whl")
    return built, said


@pytest.fixture(scope="module")
def installed(
    sources: Path, wheels: Path, wheel: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A PREFIX. The compiler has little left to do."""
    prefix = tmp_path_factory.mktemp("prefix")
    done = make(sources, wheels, "install", f"PREFIX={prefix}")
    assert done.returncode == 0, done.stdout + done.stderr
    return prefix


def program(prefix: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run([prefix / "bin" / name, *arguments], cwd="/")


def test_a_wheel_needs_neither_root_nor_clang_nor_libbpf(wheel: tuple[Path, str]) -> None:
    built, said = wheel
    names = zipfile.ZipFile(built).namelist()
    assert any(name.startswith("kdht/_routing.") and name.endswith(".so") for name in names)
    assert not [name for name in names if "_ebpf." in name and name.endswith(".so")]
    assert not [name for name in names if name.endswith(".bpf.o")]
    assert "the eBPF datapath needs clang and libbpf (Debian: apt-get install clang libbpf-dev)" in said


def test_everything_is_installed(installed: Path) -> None:
    assert [name for name in FILES if not (installed / name).is_file()] == []
    for name in PROGRAMS:
        done = program(installed, name, "--version")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{name} ")
        assert list((installed / "share/man").glob(f"man?/{name}.?"))


def test_units_start_what_was_installed(installed: Path) -> None:
    for unit in (installed / "lib/systemd/system").iterdir():
        (start,) = re.findall(r"^ExecStart=(\S+)", unit.read_text(), re.MULTILINE)
        assert start in {f"{installed}/bin/{name}" for name in PROGRAMS}


def test_an_installation_over_another_leaves_nothing_of_it(
    sources: Path, wheels: Path, installed: Path
) -> None:
    known = installed / "lib/kdht/installed"
    stale = installed / "share/man/man1/kdht-old.1"
    stale.touch()
    known.write_text(known.read_text() + "share/man/man1/kdht-old.1\n")
    assert make(sources, wheels, "install", f"PREFIX={installed}").returncode == 0
    assert not stale.exists()
    assert not (installed / "lib/kdht.old").exists()
    assert program(installed, "kdhtctl", "--version").returncode == 0


def test_an_installation_that_fails_leaves_the_old_one(sources: Path, wheels: Path, installed: Path) -> None:
    done = make(sources, wheels, "install", f"PREFIX={installed}", more={"PIP_ARGS": "--no-such-option"})
    assert done.returncode != 0
    assert program(installed, "kdhtd", "--version").returncode == 0
    assert sorted(path.name for path in (installed / "lib").iterdir()) == ["kdht", "systemd", "sysusers.d"]


def test_the_lines_of_readme_and_tutorial_install_it(
    sources: Path, wheels: Path, wheel: tuple[Path, str], tmp_path: Path
) -> None:
    (block,) = (each for each in fences(ROOT / "docs/tutorial.md") if "install" in each.words)
    assert block.text in (ROOT / "README.md").read_text()
    (tmp_path / "python3").symlink_to(PYTHON)
    environment = {
        **os.environ,
        **offline(wheels),
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = run(["bash", "-e", "-c", block.text], cwd=sources, env=environment, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    for name in PROGRAMS:
        assert program(tmp_path / "kdht", name, "--version").returncode == 0


def test_destdir_is_known_to_no_file(
    sources: Path, wheels: Path, wheel: tuple[Path, str], tmp_path: Path
) -> None:
    stage = tmp_path / "stage"
    done = make(sources, wheels, "install", "PREFIX=/opt/kdht", f"DESTDIR={stage}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert run(["grep", "-rl", stage, stage]).stdout == ""
    first_line = (stage / "opt/kdht/lib/kdht/bin/kdhtd").read_text().partition("\n")[0]
    assert first_line == "#!/opt/kdht/lib/kdht/bin/python"
    assert make(sources, wheels, "uninstall", "PREFIX=/opt/kdht", f"DESTDIR={stage}").returncode == 0
    assert [path for path in stage.rglob("*") if not path.is_dir()] == []


def test_completion_works_in_bash(installed: Path) -> None:
    file = installed / "share/bash-completion/completions/kdhtctl"
    ask = '. "$0"; COMP_WORDS=(kdhtctl sta) COMP_CWORD=1; _kdhtctl_completion kdhtctl; echo "${COMPREPLY[*]}"'
    environment = {**os.environ, "PATH": f"{installed}/bin:{os.environ['PATH']}"}
    done = run(["bash", "-c", ask, file], env=environment)
    assert done.stdout.split() == ["status", "stats"]


def test_uninstall_leaves_nothing(
    sources: Path, wheels: Path, wheel: tuple[Path, str], tmp_path: Path
) -> None:
    other = tmp_path / "bin/other"
    other.parent.mkdir()
    other.touch()
    assert make(sources, wheels, "install", f"PREFIX={tmp_path}").returncode == 0
    assert make(sources, wheels, "uninstall", f"PREFIX={tmp_path}").returncode == 0
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [other]
    again = make(sources, wheels, "uninstall", f"PREFIX={tmp_path}")
    assert again.returncode != 0
    assert "give the PREFIX and DESTDIR that it was installed with" in again.stderr


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_pip_installs_it_into_a_clean_environment(
    kind: str, sdist: Path, wheel: tuple[Path, str], wheels: Path, bare: Path, open_directory: Path
) -> None:
    """First a node on sockets alone, then the full one. pip compiles all of the sdist, in an environment of its own."""
    environment = CleanEnvironment(open_directory / f"from-{kind}", wheels, bare)
    file = {"sdist": sdist, "wheel": wheel[0]}[kind]
    environment.install(file)
    assert not environment.has("netfilterqueue")
    assert environment.keeps_a_value()
    environment.install(f"{file}[nfqueue,packets]" if kind == "wheel" else "kdht[nfqueue,packets]")
    assert environment.has("netfilterqueue")
    assert environment.has("scapy")
    assert environment.keeps_a_value()
    for name in PROGRAMS:
        assert environment.run(environment.bin / name, "--version").startswith(f"{name} ")


def test_an_index_page_can_show_its_description(wheel: tuple[Path, str]) -> None:
    with zipfile.ZipFile(wheel[0]) as built:
        (name,) = (each for each in built.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = message_from_string(built.read(name).decode())
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Summary"] == PROJECT["project"]["description"]
    description = metadata.get_payload()
    assert description.startswith("# kdht\n")
    assert re.findall(r"\]\((?!https?://)[^)]*\)", description) == []  # such a link leads nowhere there
    assert dict(each.split(", ") for each in metadata.get_all("Project-URL")) == PROJECT["project"]["urls"]
