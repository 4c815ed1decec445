"""Frees memory that an idle node does not need: many nodes may share a host."""

import ctypes
import gc
import sys


def without_tls() -> None:
    """Import asyncio without TLS. A node does not use TLS, and OpenSSL takes a tenth of its memory.

    A later `import ssl` works.
    """
    # Too late: the memory is taken.
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    # asyncio does without, if the import fails.
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def trim_heap() -> None:
    """Return the start's memory to the system, and exempt the rest from garbage collection."""
    # First, because garbage that is frozen is never freed.
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)
