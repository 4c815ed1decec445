"""Processes that a node starts to run a part of itself: with this package, whatever the working directory holds."""

import os
import sys
from pathlib import Path

_PACKAGE_ROOT = str(Path(__file__).parents[3])


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": _PACKAGE_ROOT}
