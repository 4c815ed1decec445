"""Starts processes: parts of kdht, with this package, whatever lies in the working directory; and programs of the host.

All errors are DatapathErrors. A fork fails for want of memory, processes or descriptors, and works again later.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdht.errors import DatapathError

_PACKAGE_ROOT = str(Path(__file__).parents[3])


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": _PACKAGE_ROOT}


def started(command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
    """As subprocess.Popen. Raises DatapathError."""
    try:
        return subprocess.Popen(command, **options)
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        raise _cannot_start(command, error) from error


def ran(command: Sequence[str], script: str = "") -> "subprocess.CompletedProcess[str]":
    """As subprocess.run, with the output as text. Raises DatapathError."""
    try:
        return subprocess.run(
            command, input=script, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        raise _cannot_start(command, error) from error


def _cannot_start(command: Sequence[str], error: BaseException) -> DatapathError:
    name = "a part of kdht" if command[0] == sys.executable else command[0]
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return DatapathError(f"cannot start {name}: {why}")
