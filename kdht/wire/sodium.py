"""libsodium, loaded when it is first needed. Layer 0.

A node or a client without signed records and sealed values never loads it.
"""

from typing import Any

from kdht.errors import MissingLibrary


def library() -> Any:
    """The extension module `_sodium`. Raises MissingLibrary if it was not built."""
    try:
        from kdht.wire import _sodium
    except ImportError as error:
        raise MissingLibrary(
            f"kdht was built without libsodium, which signed records and sealed values need ({error}): install it "
            "(Debian: apt-get install libsodium-dev) and install kdht again"
        ) from None
    return _sodium
