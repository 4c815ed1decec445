"""The targets. Each takes any bytes, states one invariant, and raises if it does not hold.

A target module has `one(data)`, and `seeds()` gives names and inputs to start from. With an
ordinary build the targets run as they are: a corpus can be replayed without a sanitizer.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from fuzz import branches

OF_C = ("packet", "message", "netlink")
"""Targets that test the core and the queue's loop."""
OF_PYTHON = (
    "control",
    "service",
    "certified",
    "rights",
    "sets",
    "client",
    "lies",
    "dns",
    "tracker",
    "http",
)
"""Targets that test Python code. Its blocks count as coverage too."""
NAMES = OF_C + OF_PYTHON
LIBRARIES = {"dns": "dns", "http": "h11"}
"""Other packages whose blocks count: parsers that get strangers' bytes, here dnspython and h11."""


def module(name: str) -> ModuleType:
    """A target's module. Raises ValueError for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"no such target: {name!r}; there are {', '.join(NAMES)}")
    return import_module(f"fuzz.targets.{name}")


def load(name: str) -> Callable[[bytes], None]:
    """A target's callable. Only the harness calls this, before anything imports kdht."""
    if name in OF_PYTHON:
        import _harness

        branches.install(_harness.hit, LIBRARIES.get(name))
    return module(name).one
