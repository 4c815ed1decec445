"""The demonstration's data set."""

from pathlib import Path

import pytest

from demo.dataset import DPKG_STATUS, MAX_VALUE, Package, packages
from kdht.errors import ConfigError

STATUS = """\
Package: zsh
Status: install ok installed
Architecture: amd64
Description: a shell
 Status: deinstall ok config-files
 and more: text

Package: libc6
Status: install ok installed
Architecture: amd64

Package: libc6
Status: install ok installed
Architecture: i386

Package: gone
Status: deinstall ok config-files
Architecture: amd64
"""


@pytest.fixture
def status(tmp_path: Path) -> Path:
    path = tmp_path / "status"
    path.write_text(STATUS)
    return path


def test_installed_packages_by_name(status: Path) -> None:
    assert [entry.name for entry in packages(status)] == ["libc6", "libc6:i386", "zsh"]


def test_a_value_is_the_whole_record(status: Path) -> None:
    assert packages(status)[2] == Package("zsh", STATUS.split("\n\n")[0].encode())


def test_a_limit(status: Path) -> None:
    assert [entry.name for entry in packages(status, 2)] == ["libc6", "libc6:i386"]


def test_long_records_are_cut_to_bytes(status: Path) -> None:
    status.write_text(f"Package: long\nStatus: install ok installed\nDescription: {'é' * MAX_VALUE}\n")
    assert len(packages(status)[0].value) == MAX_VALUE


@pytest.mark.parametrize("text", ["", "Package: gone\nStatus: deinstall ok config-files\n", "\0\xff"])
def test_a_list_of_nothing(status: Path, text: str) -> None:
    status.write_text(text)
    with pytest.raises(ConfigError, match="names no installed package; name another list with --packages"):
        packages(status)


@pytest.mark.skipif(not DPKG_STATUS.exists(), reason="not a Debian")
def test_the_real_list() -> None:
    entries = packages()
    assert len(entries) > 100
    assert len({entry.name for entry in entries}) == len(entries)
    assert all(entry.value.startswith(b"Package: ") for entry in entries)
