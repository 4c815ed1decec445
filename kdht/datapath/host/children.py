"""Starts processes that run a part of kdht, with this package, whatever lies in the working directory."""

import os
import sys
from pathlib import Path

_PACKAGE_ROOT = str(Path(__file__).parents[3])


def command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": _PACKAGE_ROOT}
