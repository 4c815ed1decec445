"""The data set: name and control record of every Debian package installed on this machine."""

from pathlib import Path
from typing import NamedTuple

from kdht.errors import ConfigError

DPKG_STATUS = Path("/var/lib/dpkg/status")
MAX_VALUE = 1024
"""Bytes; longer records are cut."""


class Package(NamedTuple):
    name: str
    """The package, with its architecture if it is installed for several: "libc6:i386"."""
    value: bytes
    """Its control record, UTF-8."""


def packages(path: Path = DPKG_STATUS, limit: int | None = None) -> list[Package]:
    """All installed packages, or the first `limit`, by name. Raises ConfigError without any."""
    try:
        paragraphs = path.read_text(encoding="utf-8", errors="replace").split("\n\n")
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: the data set is Debian's list of packages; name one with --packages"
        ) from None
    found: dict[str, bytes] = {}
    for paragraph in paragraphs:
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if _is_field(line))
        if fields.get("Status", "").endswith(" installed"):
            name = fields.get("Package", "")
            key = name if name not in found else f"{name}:{fields.get('Architecture', '')}"
            found[key] = paragraph.encode()[:MAX_VALUE]
    if not found:
        raise ConfigError(f"{path}: names no installed package; name another list with --packages")
    return [Package(name, found[name]) for name in sorted(found)[:limit]]


def _is_field(line: str) -> bool:
    return ": " in line and not line.startswith(" ")
