"""The control socket, against a real unix socket: good requests, bad ones, too many, and its file."""

import asyncio
import json
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemons import open_to_all

from kdht.daemon.control.server import MAX_CALLERS, MAX_REQUEST, ControlServer, Method, group_id
from kdht.errors import ConfigError, KdhtError, NoDaemon
from kdht.program import control_client


async def echo(params):
    return params


async def refuse(params):
    raise KdhtError("not today")


async def fail(params):
    raise RuntimeError("a bug")


METHODS = {
    "echo": Method(echo),
    "refuse": Method(refuse),
    "fail": Method(fail),
    "halt": Method(echo, owner_only=True),
}


def served(path: Path, client, group: str | None = None):
    """What `client(path)` gives, in a thread, beside a server on `path`."""

    async def both():
        server = ControlServer(path, METHODS, group)
        await server.start()
        try:
            return await asyncio.to_thread(client, path)
        finally:
            await server.stop()

    return asyncio.run(both())


def talk(path: Path, *sent: bytes) -> list[dict]:
    """Send raw bytes on one connection and end it; all answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        sock.settimeout(20)
        for part in sent:
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


def test_a_request_and_its_answer(path):
    assert served(path, lambda p: control_client.call(p, "echo", a=1, b="ü")) == {"a": 1, "b": "ü"}


def test_many_requests_on_one_connection(path):
    line = b'{"method": "echo", "params": {"n": 1}}\n'
    assert served(path, lambda p: talk(p, line * 50)) == [{"result": {"n": 1}}] * 50


def test_refusals_and_bugs_are_errors_for_the_caller_only(path):
    def client(p):
        with pytest.raises(KdhtError, match="refused refuse: not today"):
            control_client.call(p, "refuse")
        with pytest.raises(KdhtError, match="inside the daemon"):
            control_client.call(p, "fail")
        with pytest.raises(KdhtError, match="no such method: 'nonsense'; there are echo"):
            control_client.call(p, "nonsense")
        return control_client.call(p, "echo", still="here")

    assert served(path, client) == {"still": "here"}


@pytest.mark.parametrize(
    "line",
    [b"\n", b"{}\n", b"[1]\n", b"nonsense\n", b'{"method": 1}\n', b'{"method": "echo", "params": 3}\n', b"\xff\xfe\n",
     b'{"method": "echo", "extra": 1}\n', b'{"method": "' + b"[" * 50_000 + b'"\n', b"[" * 60_000 + b"\n"],
)  # fmt: skip
def test_a_bad_request_gets_an_error_and_the_next_one_an_answer(path, line):
    bad, good = served(path, lambda p: talk(p, line, b'{"method": "echo"}\n'))
    assert "no valid request" in bad["error"]
    assert good == {"result": {}}


def test_a_request_without_end_is_cut_off(path):
    def client(p):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(p))
            sock.settimeout(20)
            sock.sendall(b"x" * (MAX_REQUEST + 1))
            with sock.makefile("rb") as answers:
                return answers.read()

    assert b"at most" in served(path, client)


def test_too_many_callers_are_turned_away_and_the_others_served(path):
    def client(p):
        with ExitStack() as stack:
            waiting = [stack.enter_context(connected(p)) for _ in range(MAX_CALLERS)]
            # Each has been taken on, not just connected, once it was answered.
            for sock in waiting:
                sock.sendall(b'{"method": "echo"}\n')
                assert sock.recv(100) == b'{"result":{}}\n'
            late = talk(p, b'{"method": "echo"}\n')
            waiting[0].sendall(b'{"method": "echo"}\n')
            return late, waiting[0].recv(100)

    late, early = served(path, client)
    assert "callers are served already" in late[0]["error"]
    assert early == b'{"result":{}}\n'


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect(str(path))
    return sock


def test_the_control_socket_has_mode_660_and_is_removed(path):
    mode = served(path, lambda p: p.stat().st_mode)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660
    assert not path.exists()


def test_a_waiting_caller_does_not_hold_up_the_end(path):
    def client(p):
        sock = connected(p)
        sock.sendall(b'{"method": "echo"}\n')
        assert sock.recv(100) == b'{"result":{}}\n'
        return sock

    with served(path, client) as sock:
        assert sock.recv(10) == b""


def test_a_group_that_does_not_exist(path):
    with pytest.raises(ConfigError, match=r"control\.group is 'nobody-has-this'"):
        group_id("nobody-has-this")
    with pytest.raises(ConfigError, match=r"control\.group"):
        served(path, lambda p: None, group="nobody-has-this")


@pytest.mark.root
def test_the_file_belongs_to_the_group(path):
    assert served(path, lambda p: p.stat().st_gid, group="daemon") == group_id("daemon")


@pytest.mark.root
def test_only_the_owner_may_change_the_daemon(path):
    """A member of the group may look, and may not stop."""

    def as_another_user(p: Path, method: str) -> str:
        open_to_all(p.parent)
        p.chmod(0o666)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setresuid(65534, 65534, 65534)
                answer = repr(talk(p, json.dumps({"method": method}).encode() + b"\n"))
            except BaseException as error:
                answer = repr(error)
            os.write(writer, answer.encode())
            os._exit(0)
        os.close(writer)
        with open(reader) as answers:
            said = answers.read()
        os.waitpid(child, 0)
        return said

    assert "for root and the daemon's own user" in served(path, lambda p: as_another_user(p, "halt"))
    assert served(path, lambda p: as_another_user(p, "echo")) == "[{'result': {}}]"


def test_no_node_answers(path):
    with pytest.raises(NoDaemon, match="no such socket"):
        control_client.call(path, "status")


def test_something_else_answers(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()

        async def answer_nonsense():
            loop = asyncio.get_running_loop()
            server.setblocking(False)
            called = asyncio.create_task(asyncio.to_thread(control_client.call, path, "status"))
            peer, _ = await loop.sock_accept(server)
            with peer:
                await loop.sock_sendall(peer, b"220 smtp ready\n")
            await called

        with pytest.raises(NoDaemon, match="another program answers there"):
            asyncio.run(answer_nonsense())


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the control socket"):
        served(tmp_path / "file" / "control.sock", lambda p: None)
