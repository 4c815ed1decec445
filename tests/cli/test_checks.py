"""A check of an announced service that the system refuses to start says so, and does not end the command."""

import subprocess

import pytest

from kdht.cli.checks import all_of, by_command


@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"), MemoryError()])
def test_a_check_that_cannot_be_started_is_not_passed(monkeypatch, error):
    def refuse(*_arguments, **_options):
        raise error

    check = all_of([by_command("true")])
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        assert check(1.0).startswith("the check cannot be started: ")
    assert check(5.0) == ""
