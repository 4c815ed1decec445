"""C sources of the laboratory, compiled at their first use."""

import os
import subprocess
from pathlib import Path

from kdht.errors import LabError


def compiled(source: Path, result: Path, *options: str) -> Path:
    """Compile `source` to `result`, unless that is there. Raises LabError without a compiler."""
    if result.exists():
        return result
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-O2", "-Wall", "-Werror", "-o", str(result), str(source), *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise LabError(f"{source.name} needs a C compiler: {compiler} is not there (set CC)") from None
    if done.returncode:
        raise LabError(f"cannot compile {source.name}: {done.stderr.strip()}")
    return result
