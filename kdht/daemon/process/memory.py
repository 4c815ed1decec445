"""What an idle node need not hold: memory counts where many nodes share a host."""

import ctypes
import gc
import sys


def without_tls() -> None:
    """Import asyncio as where Python has no TLS: a node has none, and OpenSSL takes a tenth of its memory.

    Whoever imports ssl afterwards gets it.
    """
    if "asyncio" in sys.modules or "ssl" in sys.modules:
        return
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401
    finally:
        del sys.modules["ssl"]


def trim_heap() -> None:
    """Return memory that only the start needed to the system; exempt the rest from garbage collection."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)
