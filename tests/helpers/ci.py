"""Whether this run is one of continuous integration, which has all that a test may need."""

import os
from typing import NoReturn

import pytest

IN_CI = os.environ.get("CI") == "true"


def lacks(what: str) -> NoReturn:
    """Skip the test that runs, for want of this. In CI that would hide it, so it fails."""
    (pytest.fail if IN_CI else pytest.skip)(what)
    raise AssertionError("unreachable")
