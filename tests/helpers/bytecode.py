"""Compiled Python, kept for a whole run even where the environment asks Python to write none."""

import os
import shutil
import sys
import tempfile
from pathlib import Path


def keep_bytecode(directory: Path) -> None:
    """Have this process and all that it starts keep their bytecode in `directory`, and none beside the sources.

    A no-op unless PYTHONDONTWRITEBYTECODE is set.
    """
    # A run starts thousands of Python programs. A daemon that compiles kdht first takes twice the processor time.
    if not sys.dont_write_bytecode:
        return
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(directory)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def drop_bytecode_of_temporary_files(directory: Path) -> None:
    """Each run installs kdht into new folders. Their bytecode would pile up."""
    shutil.rmtree(directory / tempfile.gettempdir().lstrip("/"), ignore_errors=True)
