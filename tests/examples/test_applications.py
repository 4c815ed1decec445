"""The applications in examples/, against real daemons: a node is stopped, a leader and a service are killed meanwhile.

applications --> 127.0.0.1 .. 127.0.0.4, four kdhtd with the socket datapath, no root
"""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest
from daemons import KDHTCTL
from drivers import build_go, go_environment, need
from paths import ROOT
from programs import Program

from kdht import Client
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.wait import wait_until

NODES = 4
EXAMPLES = ROOT / "examples"
LOST = 60.0
"""Seconds in which a member is gone for certain."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(places_on_loopback(NODES), tmp_path_factory.mktemp("cluster"), datapath="socket") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def nodes(cluster):
    return [str(node.address) for node in cluster.nodes]


@pytest.fixture
def client(nodes):
    with Client(nodes, timeout=20) as client:
        yield client


@contextmanager
def stopped(node):
    """A node that answers nothing."""
    os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


def free_tcp_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Service:
    """An HTTP service on a port of its own. `answer` is called with each path: the headers and the body."""

    def __init__(self, answer, host="127.0.0.1", port=0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                headers, body = answer(self.path)
                self.send_response(200)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer((host, port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self._open = True

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        if self._open:
            self._open = False
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def fetch(url, method="GET", **headers):
    """Status, headers, body."""
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


# --- nginx -------------------------------------------------------------------------------


def nginx_folder(directory, port, conf="nginx.conf", others=()):
    """Where nginx runs: the example's configuration, with another port. `others`: more to replace."""
    for name in ("upstreams", "tmp"):
        (directory / name).mkdir()
    text = (EXAMPLES / "nginx" / conf).read_text()
    for old, new in (("127.0.0.1:8080", f"127.0.0.1:{port}"), *others):
        assert old in text
        text = text.replace(old, new)
    (directory / conf).write_text(text)
    return directory


def announcer(nodes, port):
    where = [part for node in nodes for part in ("--node", node)]
    alive = ["--tcp", f"127.0.0.1:{port}", "--every", "1", "--ttl", "6"]
    return Program([*KDHTCTL, "announce", "web", f"127.0.0.1:{port}", *alive, *where])


def test_nginx_follows_the_instances_of_a_service(cluster, nodes, client, tmp_path):
    need("nginx", "nginx-light")
    port = free_tcp_port()
    folder = nginx_folder(tmp_path, port)
    nginx = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    url = f"http://127.0.0.1:{port}/"
    file = folder / "upstreams/web.conf"
    client.announce_once("web", b"127.0.0.1:1; } evil", ttl=600)  # no address: it must not reach nginx
    where = [part for node in nodes for part in ("--node", node)]
    follow = [sys.executable, EXAMPLES / "nginx/upstreams.py", *where, "--set", "web", "--file", file]
    with ExitStack() as stack:
        services = [stack.enter_context(Service(lambda path, name=name: ({}, name))) for name in (b"a", b"b")]
        upstreams = stack.enter_context(Program([*follow, "--reload", " ".join([*nginx, "-s", "reload"])]))
        announcers = [stack.enter_context(announcer(nodes, service.port)) for service in services]
        wait_until(
            lambda: file.exists() and file.read_text().count("server 127.0.0.1:") == 2,
            "both instances in the file",
            timeout=LOST,
        )
        assert "evil" not in file.read_text()
        proxy = stack.enter_context(Program(nginx))
        wait_until(lambda: listens(port), "nginx", timeout=LOST)
        seen = set()
        wait_until(lambda: seen.update([fetch(url)[2]]) or {b"a", b"b"} <= seen, "both", timeout=LOST)
        # The instance and its announcer die without a word, and a node, too.
        with stopped(cluster.nodes[-1]):
            announcers[0].kill()
            services[0].close()
            wait_until(lambda: f":{services[0].port} " not in file.read_text(), "its end", timeout=LOST)
            wait_until(lambda: {fetch(url)[2] for _ in range(6)} == {b"b"}, "only the other", timeout=LOST)
        # nobody is left: the upstream must still be one that nginx takes
        announcers[1].kill(signal.SIGTERM)
        wait_until(lambda: "down" in file.read_text(), "an empty upstream", timeout=LOST)
        assert "evil" not in file.read_text()
        wait_until(lambda: fetch(url)[0] == 502, "502", timeout=LOST)
        proxy.kill(signal.SIGQUIT)
        assert upstreams.process.poll() is None


@contextmanager
def dns_face(node, directory):
    """A DNS face beside the node, as a process of its own. Its port."""
    port = free_tcp_port()
    host, _, node_port = node.rpartition(":")
    config = directory / "faces.toml"
    config.write_text(
        f'[node]\nlisten = ["{host}:{node_port}"]\n[[key]]\nsecret = "for cookies alone, 16"\n'
        f'[dns]\nlisten = ["127.0.0.1:{port}"]\nttl = 1\nnegative_ttl = 1\n'
    )
    config.chmod(0o600)
    with Program([sys.executable, "-m", "kdht.faces.main", "--config", config]):
        wait_until(lambda: listens(port), "the DNS face", timeout=LOST)
        yield port


def test_nginx_finds_the_instances_by_dns(nodes, client, tmp_path):
    need("nginx", "nginx-light")
    port, service_port = free_tcp_port(), free_tcp_port()
    hosts = ["127.0.0.21", "127.0.0.22"]
    url = f"http://127.0.0.1:{port}/"
    with ExitStack() as stack:
        dns = stack.enter_context(dns_face(nodes[0], tmp_path))
        others = [
            ("127.0.0.1:5353", f"127.0.0.1:{dns}"), ("web.kdht", "shop.kdht"), (":8081", f":{service_port}")
        ]  # fmt: skip
        folder = nginx_folder(tmp_path, port, "nginx-dns.conf", others)
        for name, host in zip((b"a", b"b"), hosts, strict=True):
            stack.enter_context(Service(lambda path, name=name: ({}, name), host, service_port))
            client.announce_once("shop", f"{host}:{service_port}".encode(), ttl=600)
        command = ["nginx", "-p", str(folder), "-c", "nginx-dns.conf", "-e", "stderr"]
        proxy = stack.enter_context(Program(command))
        wait_until(lambda: listens(port), "nginx", timeout=LOST)
        seen = set()
        wait_until(lambda: seen.update([fetch(url)[2]]) or {b"a", b"b"} <= seen, "both", timeout=LOST)
        assert client.withdraw("shop", f"{hosts[0]}:{service_port}".encode())
        wait_until(lambda: {fetch(url)[2] for _ in range(6)} == {b"b"}, "only the other", timeout=LOST)
        assert client.withdraw("shop", f"{hosts[1]}:{service_port}".encode())
        wait_until(lambda: fetch(url)[0] == 502, "502", timeout=LOST)
        # Its worker, too: that holds the pipe.
        proxy.kill(signal.SIGQUIT)


def test_upstreams_refuses_a_name_that_nginx_would_not_take(nodes, tmp_path):
    command = [sys.executable, EXAMPLES / "nginx/upstreams.py", "--node", nodes[0], "--set", "a;b"]
    done = subprocess.run(
        [*command, "--file", tmp_path / "f"], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert "letters" in done.stderr


# --- Flags -------------------------------------------------------------------------------


def flags(nodes, *arguments):
    where = [part for node in nodes for part in ("--node", node)]
    return Program([sys.executable, EXAMPLES / "flags/flags.py", *where, *arguments])


def test_flags_reach_a_program_that_follows_them(cluster, nodes):
    def change(*arguments):
        with flags(nodes[:2], "shop", *arguments) as program:
            program.process.wait(timeout=60)
            return program.process.returncode

    # the follower asks the last node first, which stops below
    with flags([nodes[-1], nodes[0]], "shop", "follow", "--user", "alice") as follower:
        follower.wait_for("on:")
        assert change("set", "new-checkout", "on") == 0
        follower.wait_for("on: new-checkout")
        with stopped(cluster.nodes[-1]):
            assert change("set", "new-search", "100") == 0
            follower.wait_for("on: new-checkout new-search")
        assert change("remove", "new-checkout") == 0
        follower.wait_for("on: new-search")
    assert change("set", "new-search", "101") == 2


def test_flags_set_at_the_same_time_are_all_kept(nodes, client):
    with ExitStack() as stack:
        names = [f"flag-{number}" for number in range(4)]
        running = [stack.enter_context(flags(nodes, "busy", "set", name, "25")) for name in names]
        assert [program.process.wait(timeout=60) for program in running] == [0] * len(names)
    record = client.get_record("flags/busy", quorum=True)
    assert json.loads(record.value) == dict.fromkeys(names, 25)


# --- A leader ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leader(tmp_path_factory):
    """The program."""
    return build_go(EXAMPLES / "leader", ".", tmp_path_factory.mktemp("leader") / "leader")


def run_leader(stack, leader, nodes, group, id, *more):
    command = [leader, "-nodes", ",".join(nodes), "-name", group, "-id", id, "-lease", "3s", *more]
    return stack.enter_context(Program(command))


def the_leader(running):
    """Who leads, and the number of lines that it has said."""
    found = []

    def one_leads():
        states = {
            id: [line for line in each.lines if re.match("leads|follows", line)]
            for id, each in running.items()
        }
        found[:] = [id for id, said in states.items() if said and said[-1].startswith("leads")]
        return len(found) == 1

    wait_until(one_leads, "one leader", timeout=60)
    return found[0]


def written(running):
    """Line and fence of all that was written, in the order of the lines."""
    said = (
        match
        for each in running
        for line in each.lines
        if (match := re.fullmatch(r"wrote line=(\d+) fence=(\d+)", line))
    )
    return sorted((int(match[1]), int(match[2])) for match in said)


def test_another_leads_when_the_leader_is_killed(cluster, nodes, leader):
    with ExitStack() as stack:
        running = {id: run_leader(stack, leader, nodes, "killed", id) for id in "abc"}
        first = the_leader(running)
        running[first].wait_for(r"wrote line=\d+ fence=\d+")
        running[first].kill()
        dead = running.pop(first)
        with stopped(cluster.nodes[-1]):
            second = the_leader(running)
            running[second].wait_for(r"wrote line=\d+ fence=\d+")
        # At SIGTERM it gives the lease back.
        assert running[second].kill(signal.SIGTERM) == 0
        gone = running.pop(second)
        third = the_leader(running)
        running[third].wait_for(r"wrote line=\d+ fence=\d+")
    lines = written([dead, gone, running[third]])
    fences = [fence for _, fence in lines]
    assert fences == sorted(fences)
    assert len(set(fences)) >= 3  # more, if a leader was too slow to renew
    assert len({line for line, _ in lines}) == len(lines), "two leaders wrote the same line"


def test_a_leader_that_does_not_know_that_it_leads_no_more_is_fenced(nodes, leader):
    with ExitStack() as stack:
        old = run_leader(stack, leader, nodes, "fenced", "old", "-careless")
        fence = int(old.wait_for(r"leads fence=(\d+)")[1])
        old.wait_for(r"wrote line=\d+ fence=\d+")
        new = run_leader(stack, leader, nodes, "fenced", "new")
        assert int(new.wait_for(r"wrote line=\d+ fence=(\d+)")[1]) > fence
        old.wait_for(f"fenced fence={fence}")
        old.wait_for("follows")
        new.kill()
        old.kill()
    fences = [fence for _, fence in written([old, new])]
    assert fences == sorted(fences)


def test_the_leader_is_formatted_and_vetted():
    need("gofmt", "golang-go")
    folder = EXAMPLES / "leader"
    assert subprocess.run(["gofmt", "-l", folder], capture_output=True, text=True, check=True).stdout == ""
    subprocess.run(["go", "vet", "./..."], cwd=folder, env=go_environment(), check=True, timeout=240)


# --- A cache -----------------------------------------------------------------------------


def run_cache(stack, nodes, service, ttl):
    need("node", "nodejs")
    listen = f"127.0.0.1:{free_tcp_port()}"
    command = ["node", EXAMPLES / "cache/cache.mjs", "--origin", f"http://127.0.0.1:{service.port}"]
    program = stack.enter_context(
        Program([*command, "--listen", listen, "--nodes", ",".join(nodes), "--ttl", str(ttl)])
    )
    program.wait_for("listening on .*")
    return f"http://{listen}"


def test_caches_share_what_a_slow_service_said(cluster, nodes):
    asked = []

    def answer(path):
        asked.append(path)
        headers = {"cache-control": "private"} if path == "/mine" else {}
        return {"content-type": "text/x-report", **headers}, b"%s, number %d" % (path.encode(), len(asked))

    def how(url, **options):
        status, headers, _ = fetch(url, **options)
        return status, headers["x-cache"]

    with ExitStack() as stack:
        service = stack.enter_context(Service(answer))
        first, second = (run_cache(stack, nodes, service, ttl=4) for _ in range(2))
        status, headers, body = fetch(f"{first}/report?n=1")
        assert (status, headers["x-cache"], headers["content-type"]) == (200, "miss", "text/x-report")
        wait_until(lambda: how(f"{second}/report?n=1")[1] == "hit", "a hit", timeout=60)
        count = len(asked)
        answers = [fetch(f"{url}/report?n=2") for url in (first, second)]
        assert len(asked) <= count + 2
        assert all(headers["content-type"] == "text/x-report" for _, headers, _ in answers)
        # it ends with its TTL
        wait_until(lambda: fetch(f"{second}/report?n=1")[2] != body, "the end of its TTL", timeout=60)
        assert how(f"{first}/mine") == how(f"{first}/mine") == (200, "pass")
        assert how(f"{first}/report?n=1", authorization="me") == (200, "pass")
        assert how(f"{first}//127.0.0.2/")[0] == 200
        assert how(f"{first}/", method="POST")[0] == 405
        with ExitStack() as all_stopped:
            for node in cluster.nodes:
                all_stopped.enter_context(stopped(node))
            assert how(f"{first}/new") == (200, "miss")
