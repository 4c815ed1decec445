"""`make faces`: what it prints can be done, and nothing is left of it."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import pytest
from ci import lacks
from daemons import free_port
from paths import ROOT

pytestmark = pytest.mark.cluster

HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
SECONDS = 120


@contextmanager
def started(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "demo.faces", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=SECONDS)


def ports() -> list[str]:
    chosen = {name: free_port(*HOSTS) for name in ("dns", "http", "tracker")}
    return [f"--{name}={port}" for name, port in chosen.items()]


def did(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_what_it_prints_can_be_done_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    if missing := [name for name in ("dig", "curl") if not which(name)]:
        lacks(f"needs {', '.join(missing)}")
    with started(tmp_path, *ports()) as faces:
        assert faces.stdout is not None
        said = ""
        while "Ctrl-C ends all" not in said:
            line = faces.stdout.readline()
            assert line, said
            said += line
        dig_a, dig_srv, dig_txt, get, put, members, watch = re.findall(
            r"^  ((?:dig|curl) .*?) +# ", said, re.MULTILINE
        )
        assert sorted(did(dig_a).split()) == list(HOSTS)
        assert len(did(dig_srv).splitlines()) == len(HOSTS)
        assert "hello from kdht" in did(dig_txt)
        assert "ETag: " in (shown := did(get))
        assert shown.endswith("hello from kdht")
        did(put)
        assert did(get).endswith("good morning")
        assert did(members).count('"payload') >= len(HOSTS)
        assert "good morning" in did(f"{watch.replace('--max-time 30', '--max-time 2')} || test $? = 28")
        for host, port in re.findall(r"udp://(\S+):(\d+)/announce", said):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(20)
                sock.sendto(bytes.fromhex("00000417271019800000000000000001"), (host, int(port)))
                assert len(sock.recv(100)) == 16
        faces.send_signal(signal.SIGINT)
        rest, _ = faces.communicate(timeout=SECONDS)
        assert (faces.returncode, rest) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_it_ends_by_itself(tmp_path: Path) -> None:
    with started(tmp_path, *ports(), "--minutes", "0") as faces:
        said, _ = faces.communicate(timeout=SECONDS)
    assert faces.returncode == 0, said
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOSTS[0], 0))
        taken = sock.getsockname()[1]
        with started(tmp_path, *ports(), f"--tracker={taken}") as faces:
            said, _ = faces.communicate(timeout=SECONDS)
    assert faces.returncode == 1
    assert "Address already in use" in said.splitlines()[-1]
    assert "--tracker" in said.splitlines()[-1]
    assert "Traceback" not in said
