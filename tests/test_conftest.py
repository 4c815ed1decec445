"""The run's own checks can fail: each is shown on a test run of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import order
import pytest
from daemons import nobody, open_to_all
from paths import HELPERS, ROOT, TESTS
from pyroute2 import netns

LEFT = "t-conftest-left"
LEAVES_A_PROCESS = """
import pathlib, subprocess
def test_it():
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    pathlib.Path("pid").write_text(str(process.pid))
"""
LEAVES_A_NAMESPACE = f"""
from pyroute2 import netns
def test_it():
    netns.create("{LEFT}")
"""
NEEDS_ROOT = """
import pytest
@pytest.mark.root
def test_it():
    pass
"""


STARTS_A_NODE = """
from daemons import DevNode
def test_it():
    pass
"""
NEEDS_A_BROWSER = NEEDS_ROOT.replace("root", "browser")
NEEDS_OTHERS = NEEDS_ROOT.replace("root", "others")


def run(directory: Path, source: str, *more: str, ci: bool, before: list[str] | None = None) -> str:
    """What pytest says of a file with this source, under this folder's conftest, with `more` options."""
    file = directory / "test_it.py"
    file.write_text(source)
    options = ["-rs", "-p", "conftest", "-p", "no:cacheprovider", "--rootdir", str(directory), "-W", "ignore"]
    env = {**os.environ, "PYTHONPATH": f"{HELPERS}:{TESTS}:{ROOT}", "CI": "true" if ci else ""}
    command = [*(before or []), sys.executable, "-m", "pytest", *options, *more, str(file)]
    done = subprocess.run(
        command, cwd=directory, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def test_a_process_left_behind_fails_the_run(tmp_path: Path) -> None:
    said = run(tmp_path, LEAVES_A_PROCESS, ci=False)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert "left behind: processes: " in said
    assert "sleep 60" in said
    assert "1 passed, 1 error" in said.splitlines()[-1]


@pytest.mark.root
def test_a_namespace_left_behind_fails_the_run_in_ci(tmp_path: Path) -> None:
    try:
        said = run(tmp_path, LEAVES_A_NAMESPACE, ci=True)
    finally:
        netns.remove(LEFT)
    assert f"left behind: network namespaces: {LEFT}" in said


@pytest.mark.root
@pytest.mark.parametrize(("ci", "closing"), [(True, "1 error"), (False, "1 skipped")])
def test_root_tests_without_root(tmp_path: Path, ci: bool, closing: str) -> None:
    open_to_all(tmp_path)
    assert closing in run(tmp_path, NEEDS_ROOT, ci=ci, before=nobody()).splitlines()[-1]


@pytest.mark.parametrize(("ci", "closing"), [(True, "1 error"), (False, "1 skipped")])
def test_tests_of_a_browser_without_one(tmp_path: Path, monkeypatch, ci: bool, closing: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = run(tmp_path, NEEDS_A_BROWSER, ci=ci)
    assert closing in said.splitlines()[-1]
    assert ci or "needs chromium and chromedriver" in said


@pytest.mark.parametrize(("ci", "closing"), [(True, "1 error"), (False, "1 skipped")])
def test_tests_of_other_signers_without_them(tmp_path: Path, monkeypatch, ci: bool, closing: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = run(tmp_path, NEEDS_OTHERS, ci=ci)
    assert closing in said.splitlines()[-1]
    assert ci or "needs Node.js" in said


def test_a_run_that_leaves_nothing_passes(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, "def test_it(): pass", ci=False).splitlines()[-1]


def test_a_file_that_imports_a_daemon_is_marked(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, STARTS_A_NODE, "-m", "cluster", ci=False)
    assert "1 passed" in run(tmp_path, "def test_it():\n    pass\n", "-m", "not cluster", ci=False)


def test_long_files_come_first_and_are_there() -> None:
    assert [name for name in order.LONGEST if not (TESTS / name).is_file()] == []
    files = [
        TESTS / "wire/test_wire.py",
        TESTS / "root/test_nft.py",
        TESTS / order.LONGEST[1],
        TESTS / order.LONGEST[0],
    ]
    assert sorted(files, key=order.place) == files[::-1]
