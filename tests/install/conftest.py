"""What is installed here must not know where this run keeps its bytecode."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def usual_bytecode() -> Iterator[None]:
    """Installed programs and installers behave as a user's do: bytecode lies beside the sources, and RECORD names it there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPYCACHEPREFIX", raising=False)
        yield
