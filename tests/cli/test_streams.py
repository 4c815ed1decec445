"""Closed standard streams and outputs that know no Unicode: an exit status and at most one line, never a traceback."""

import json
import os
import subprocess
import sys

import pytest
from daemons import KDHTCTL, KDHTD, DevNode, free_port
from paths import ROOT

KDHT_REPLAY = [sys.executable, "-m", "kdht.replay.main"]
SILENT_NODE = ["--node", "127.0.0.1:9", "--timeout", "0.2"]
COMMANDS = [
    [*KDHTD, "--example"], [*KDHTD, "--config", "/nowhere"], [*KDHTCTL, "--help"], [*KDHTCTL, "completion", "bash"],
    [*KDHTCTL, "status", "--socket", "/nowhere"], [*KDHTCTL, "get", "k", *SILENT_NODE],
    [*KDHTCTL, "put", "k", "-", *SILENT_NODE], [*KDHT_REPLAY, "--help"],
]  # fmt: skip
CLOSED = [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"]
NARROW = {
    "ascii": {"PYTHONIOENCODING": "ascii", "LANG": "C"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
}


def closed(command: list[str], redirection: str, **options: object) -> subprocess.CompletedProcess[str]:
    script = ["sh", "-c", f'"$@" {redirection}', "sh", *command]
    options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 60, "check": False, **options}
    return subprocess.run(script, **options)


@pytest.mark.parametrize("redirection", CLOSED)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[2:4]))
def test_a_closed_stream_causes_no_traceback(command, redirection):
    done = closed(command, redirection, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2, 5, 6)
    if ">&-" in redirection.split() and done.returncode == 0:
        pytest.fail("output that nobody gets is no success")


@pytest.fixture
def node(tmp_path):
    node = DevNode(tmp_path, f"127.0.0.1:{free_port('127.0.0.1')}")
    yield node.wait_ready()
    node.close()


def test_a_closed_input_is_an_error(node):
    done = closed([*KDHTCTL, "put", "k", "-", "--node", node.listen], "<&-")
    assert (done.returncode, done.stderr) == (1, "kdhtctl: input or output: Bad file descriptor\n")
    assert closed([*KDHTCTL, "get", "k", "--node", node.listen], "").returncode == 7


def test_closed_standard_streams_stop_no_daemon(tmp_path):
    """The number 2 would be that of a file that it opens later: a database's, for one."""
    prefix = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    node = DevNode(tmp_path, f"127.0.0.1:{free_port('127.0.0.1')}", "--log-level", "debug", prefix=prefix)
    try:
        node.wait_ready()
        assert node.end()[0] == 0
    finally:
        node.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if b"kdht.daemon" in path.read_bytes()]


@pytest.mark.parametrize("environment", NARROW.values(), ids=NARROW)
def test_an_output_without_unicode_gets_escapes(node, environment):
    environment = {**os.environ, **environment}
    utf8 = {**os.environ, "PYTHONUTF8": "1"}
    asked = ["--node", node.listen]
    assert closed([*KDHTCTL, "put", "schlüssel→", "wert→", *asked], "", env=utf8).returncode == 0
    for arguments in (["get", "schlüssel→"], ["trace", "schlüssel→"], ["put", "schlüssel→", "wert→"]):
        done = closed([*KDHTCTL, *arguments, *asked], "", env=environment, encoding="latin-1")
        assert (done.returncode, done.stderr) == (0, ""), arguments
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    done = closed([*KDHTCTL, "get", "schlüssel→", "--json", *asked], "", env=environment, encoding=encoding)
    assert json.loads(done.stdout)["value"] == "wert→"
    done = closed([*KDHTCTL, "get", "nein→", *asked], "", env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (7, 1)
