"""The clients in Go and JavaScript, by their drivers: the bytes that they send, and real daemons that ask for tokens.

driver --> 127.0.0.1 .. 127.0.0.4, four kdhtd with the socket datapath, no root
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
import tokens
from ci import lacks
from daemons import DevNode, run
from drivers import CLIENTS, Driver, build_c, go_driver, go_environment, js_driver, need, number_in
from paths import TESTS

from kdht import Client
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.wire import parse
from kdht.wire._shared import Flag, Op

NODES = 4
DRIVERS = {"go": go_driver, "js": js_driver}
MOST_LINES = 600
COMMENT = re.compile(r"\s*(//|/\*|\*|$)")
SECOND = 1_000_000
"""In microseconds."""


@pytest.fixture(scope="module", params=DRIVERS.values(), ids=DRIVERS)
def command(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(command):
    with Driver(command) as driver:
        yield driver


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cluster")
    with Cluster(
        places_on_loopback(NODES), directory, datapath="socket", settings=tokens.settings()
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def nodes(cluster):
    return ",".join(str(node.address) for node in cluster.nodes)


@pytest.fixture
def opened(driver, nodes):
    assert driver.ask("open", nodes=nodes, token=tokens.token().text, timeout_ms=20000) == "ok"
    return driver


@pytest.fixture
def silent():
    """A socket in place of a node."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(30)
        yield sock


def test_a_proven_put_has_the_bytes_of_the_vector(driver, silent):
    vector = json.loads((TESTS / "vectors/tokens.json").read_text())
    node = "{}:{}".format(*silent.getsockname())
    driver.ask("open", nodes=node, token=vector["token"], clock_us=vector["seq"], number=5, timeout_ms=60000)
    driver.say("put", key=vector["name"].encode(), value=vector["value"].encode(), ttl=vector["ttl"])
    first, second = (parse(silent.recv(2000)) for _ in range(2))
    assert (first.op, first.flags, first.key.hex()) == (Op.PUT, Flag.PROVEN, vector["key"])
    assert [first.request_id, second.request_id] == [5 << 6, 5 << 6 | 1]
    assert [first.attempt, second.attempt] == [0, 1]
    # The vector's record has version 0, so its MAC is another one.
    assert first.body[8:-12].hex() == vector["put_body"][16:-24]
    assert first.body[:8] == vector["seq"].to_bytes(8, "big")
    assert first.body == second.body


def test_values_with_versions_and_conditions(opened, nodes):
    key = b"a key"
    version = number_in(opened.ask("put", key=key, value=b"1", ttl=60), "version")
    assert opened.ask("get", key=key, quorum=1).startswith(f"ok version={version} ttl=")
    assert opened.ask("put", key=key, value=b"2", if_version=0) == f"error CONFLICT version={version}"
    after = number_in(opened.ask("put", key=key, value=b"2", if_version=version), "version")
    assert after > version
    with Client(nodes.split(",")) as client:
        record = client.get_record(key, quorum=True)
    assert (record.value, record.version) == (b"2", after)
    assert opened.ask("delete", key=key, if_version=version) == f"error CONFLICT version={after}"
    assert [opened.ask("delete", key=key) for _ in range(2)] == ["ok found=1", "ok found=0"]
    assert opened.ask("get", key=key) == "error NOT_FOUND"
    assert opened.ask("put", key=b"\xff\x00", value=b"") != opened.ask("get", key=b"other")


def test_the_largest_value_needs_the_cookie_and_gets_it(opened):
    value = bytes(range(256)) * 4 + bytes(16)
    assert opened.ask("put", key=b"large", value=value).startswith("ok")
    assert opened.ask("get", key=b"large").endswith(f"value={value.hex()}")
    assert int(opened.ask("cookie").removeprefix("ok cookie="), 16)
    assert opened.ask("put", key=b"large", value=value + b"x") == "error TOO_LARGE"
    assert opened.ask("get", key=b"large", max=100) == "error TOO_LARGE"


def test_members_over_several_pages_until_they_withdraw(opened, nodes):
    payloads = [b"member %d" % number for number in range(70)]
    for payload in payloads:
        opened.say("announce", set=b"many", payload=payload, ttl=300)
        number_in(opened.hear(), "version")
    with Client(nodes.split(",")) as client:
        expected = [
            f"{member.id:016x}:{member.payload.hex()}" for member in client.members("many", quorum=True)
        ]
    assert len(expected) == len(payloads)
    for quorum in (0, 1):
        listed = opened.ask("members", set=b"many", quorum=quorum).removeprefix("ok members=").split(",")
        assert [":".join(each.split(":")[::2]) for each in listed] == expected
    assert opened.ask("withdraw", set=b"many", payload=payloads[0]) == "ok found=1"
    assert opened.ask("withdraw", set=b"many", payload=payloads[0], ttl=300) == "ok found=0"
    assert opened.ask("announce", set=b"named", payload=b"1", ttl=300, member=b"a long name").startswith("ok")
    assert opened.ask("announce", set=b"named", payload=b"2", ttl=300, member=b"a long name").startswith("ok")
    assert opened.ask("members", set=b"named", quorum=1).endswith(b"2".hex())
    assert opened.ask("members", set=b"nobody") == "ok members="


def test_rights_and_scopes(driver, nodes):
    driver.ask("open", nodes=nodes)
    assert driver.ask("put", key=b"closed", value=b"1") == "error DENIED"
    billing = tokens.token(scope="billing").text
    driver.ask("open", nodes=nodes, token=billing, timeout_ms=20000)
    assert driver.ask("put", key=b"scoped", value=b"1").startswith("ok")
    with Client(nodes.split(","), scope="billing") as client:
        assert client.get("scoped") == b"1"
    driver.ask("open", nodes=nodes, scope=b"billing")
    assert driver.ask("get", key=b"scoped").endswith("value=31")
    assert driver.ask("open", nodes=nodes, token=billing, scope=b"other") == "error ARGUMENT"
    assert driver.ask("open", nodes=nodes, token=billing[:-1]) == "error ARGUMENT"


@pytest.mark.parametrize("off", [-1000, 1000])
def test_a_wrong_clock_is_corrected(driver, nodes, off):
    clock = int((time.time() + off) * SECOND)
    driver.ask("open", nodes=nodes, token=tokens.token().text, clock_us=clock, timeout_ms=20000)
    key = b"clock %d" % off
    version = number_in(driver.ask("put", key=key, value=b"1"), "version")
    assert abs(version - time.time() * SECOND) < 60 * SECOND
    assert number_in(driver.ask("get", key=key, quorum=1), "version") == version


def test_a_wrong_argument_sends_nothing(opened):
    assert opened.ask("announce", set=b"s", payload=b"x" * 257, ttl=30) == "error TOO_LARGE"
    wrong = (
        opened.ask("announce", set=b"s", payload=b"x", ttl=0),
        opened.ask("withdraw", set=b"s", payload=b"x", ttl=86401),
        opened.ask("nonsense"),
    )
    assert set(wrong) == {"error ARGUMENT"}
    assert opened.end() == 0


def test_it_goes_around_nodes_that_do_not_answer(driver, cluster, nodes, silent):
    dead = "{}:{}".format(*silent.getsockname())
    driver.ask("open", nodes=f"{dead},{nodes}", token=tokens.token().text, timeout_ms=20000)
    assert driver.ask("put", key=b"around", value=b"1").startswith("ok")
    stopped = cluster.nodes[-1]
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        for number in range(4):
            assert driver.ask("get", key=b"around", quorum=number % 2).endswith("value=31")
    finally:
        os.kill(stopped.pid, signal.SIGCONT)


def free_port_of_ipv6():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            lacks("needs ::1")
        return sock.getsockname()[1]


def test_nodes_with_ipv6_however_their_addresses_are_written(driver, tmp_path):
    port = free_port_of_ipv6()
    node = DevNode(tmp_path, f"[::1]:{port}")
    try:
        node.wait_ready()
        for name in (f"[::1]:{port}", f"[0:0:0:0::0001]:{port}", f"127.0.0.1:{port},[::1]:{port}"):
            driver.ask("open", nodes=name, timeout_ms=20000)
            assert driver.ask("put", key=b"six", value=b"1").startswith("ok")
            assert driver.ask("get", key=b"six").endswith("value=31")
    finally:
        node.close()


# --- The documents -----------------------------------------------------------------------

PRINTED = ["true", "hello true", "1 10.0.0.7:80"]


def example(language, nodes):
    """The README's program, with these nodes."""
    text = (CLIENTS / "README.md").read_text()
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert '"10.0.0.1", "10.0.0.2"' in found
    return found.replace('"10.0.0.1", "10.0.0.2"', ", ".join(f'"{node}"' for node in nodes.split(",")))


def printed(command, directory, **variables):
    environment = {**go_environment(), "KDHT_TOKEN": tokens.token().text, **variables}
    done = run(command, cwd=directory, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    return [line.removesuffix(" <nil>") for line in done.stdout.splitlines()]


def test_the_example_in_go(nodes, tmp_path):
    need("go", "golang-go")
    shutil.copytree(CLIENTS / "go", tmp_path / "kdht", ignore=shutil.ignore_patterns("cmd"))
    (tmp_path / "main.go").write_text(example("go", nodes))
    printed(["go", "mod", "init", "example"], tmp_path)
    (edit,) = re.findall(r"^go mod edit .*", (CLIENTS / "README.md").read_text(), re.MULTILINE)
    printed(edit.split(), tmp_path)
    assert printed(["go", "run", "."], tmp_path) == PRINTED


def test_the_example_in_javascript(nodes, tmp_path):
    need("node", "nodejs")
    for path in (CLIENTS / "js").glob("*.mjs"):
        shutil.copy(path, tmp_path)
    (tmp_path / "main.mjs").write_text(
        example("js", nodes).replace("greeting", "salute").replace('"web"', '"net"')
    )
    assert printed(["node", "main.mjs"], tmp_path) == PRINTED


# --- Their sources -----------------------------------------------------------------------


def test_go_is_formatted_and_vetted():
    need("gofmt", "golang-go")
    folder = CLIENTS / "go"
    listed = subprocess.run(["gofmt", "-l", "."], cwd=folder, capture_output=True, text=True, check=True)
    assert listed.stdout == ""
    subprocess.run(["go", "vet", "./..."], cwd=folder, env=go_environment(), check=True, timeout=240)


def test_javascript_can_be_parsed():
    need("node", "nodejs")
    for path in (CLIENTS / "js").glob("*.mjs"):
        subprocess.run(["node", "--check", path], check=True)


def test_the_readme_s_c_program_is_built_and_refuses_its_token(tmp_path):
    text = (CLIENTS / "README.md").read_text()
    source = tmp_path / "greeting.c"
    source.write_text(text.split("```c\n")[1].split("```")[0])
    program = build_c("gcc", source, tmp_path / "greeting")
    assert subprocess.run([program], check=False).returncode == 2


@pytest.mark.parametrize("pattern", ["c/*.[ch]", "go/*.go", "js/*.mjs"])
def test_a_client_is_small(pattern):
    """Without comments; in Go and JavaScript without BLAKE2b, too, which their libraries lack."""
    sources = [path for path in CLIENTS.glob(pattern) if path.stem not in ("driver", "blake2b")]
    code = [line for path in sources for line in path.read_text().splitlines() if not COMMENT.match(line)]
    assert 0 < len(code) < MOST_LINES
