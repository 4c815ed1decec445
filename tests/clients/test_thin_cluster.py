"""All clients on one lossy cluster, at the same time: the same answers to the same operations, and the right bytes.

client   n1   n2   n3   n4
  |      |    |    |    |
--+------+----+-- br0 --+--   each datagram may be lost, come late or twice
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import pytest
import requests_seen
import tokens
from conformance import Script, increment
from drivers import DRIVERS, Driver
from requests_seen import Sniffer

from histories.network import UNTOUCHED, Network, Treatment
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Lab
from kdht.lab.stage import client_host, runtime_dir_as_found
from kdht.wire.rights import Token, holder_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

NODES = 4
SEED = 5348
OPERATIONS = 60
INCREMENTS = 4
SCOPE = "thin"
BAD = Treatment(loss_permille=50, duplicate_permille=30, late_ms=30, jitter_ms=3)
TIMEOUT_MS = 20_000
ATTEMPT = 36
"""Its offset in a request."""


class Stage(NamedTuple):
    drivers: dict[str, Driver]
    tokens: dict[str, Token]
    nodes: str
    network: Network
    sniffer: Sniffer

    def all(self, work: Callable[[str, Driver], object]) -> dict[str, object]:
        """Each client does it, all at the same time."""
        with ThreadPoolExecutor(len(self.drivers)) as pool:
            jobs = {name: pool.submit(work, name, driver) for name, driver in self.drivers.items()}
        return {name: job.result() for name, job in jobs.items()}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("cluster")
    commands = {name: build(directory) for name, build in DRIVERS.items() if name != "c by clang"}
    with ExitStack() as stack:
        stack.enter_context(runtime_dir_as_found())
        lab = stack.enter_context(Lab("t-thin"))
        places = places_in(lab, NODES)
        client = client_host(lab, ipv6=False)
        network = Network(lab, SEED)
        stack.callback(network.close)
        settings = tokens.settings(writes="token", reads="token", write_cookie=True)
        cluster = stack.enter_context(Cluster(places, directory, datapath="socket", settings=settings))
        for host in lab.hosts.values():
            if host is not lab.bridge:
                network.add(host)
        sniffer = stack.enter_context(Sniffer(client))
        stack.callback(network.treat, network.names, UNTOUCHED)  # before the cluster ends
        drivers = {
            name: stack.enter_context(Driver(command, client.popen)) for name, command in commands.items()
        }
        made = {name: tokens.token(scope=SCOPE, holder=name) for name in drivers}
        nodes = ",".join(str(node.address) for node in cluster.nodes)
        network.treat(network.names, BAD)
        for name, driver in drivers.items():
            assert driver.ask("open", nodes=nodes, token=made[name].text, timeout_ms=TIMEOUT_MS) == "ok"
        yield Stage(drivers, made, nodes, network, sniffer)
        assert {driver.end() for driver in drivers.values()} == {0}  # no sanitizer has found anything


def test_the_same_script_has_the_same_answers(stage: Stage) -> None:
    scripts = {name: Script(driver, name.replace(" ", "-"), SEED) for name, driver in stage.drivers.items()}
    stage.all(lambda name, _: scripts[name].play(OPERATIONS))
    print({name: script.doubts for name, script in scripts.items()}, "operations in doubt")
    expected = scripts["python"]
    assert {name: script.transcript for name, script in scripts.items()} == dict.fromkeys(
        scripts, expected.transcript
    )
    assert {name: script.final() for name, script in scripts.items()} == dict.fromkeys(
        scripts, expected.final()
    )


def test_what_one_wrote_all_others_read(stage: Stage) -> None:
    value = bytes(range(256)) * 4
    stage.all(lambda name, driver: _until_done(driver, "put", key=name.encode(), value=value))
    stage.all(
        lambda name, driver: _until_done(driver, "announce", set=b"all", payload=name.encode(), ttl=300)
    )

    def read(_: str, driver: Driver) -> tuple[list[str], list[str]]:
        values = [_until_done(driver, "get", key=name.encode(), quorum=1) for name in stage.drivers]
        members = _until_done(driver, "members", set=b"all", quorum=1).removeprefix("ok members=").split(",")
        return values, [":".join(each.split(":")[::2]) for each in members]

    read_by = stage.all(read)
    values, members = read_by["python"]  # type: ignore[misc]
    assert read_by == dict.fromkeys(stage.drivers, (values, members))
    assert {each.split("value=")[1] for each in values} == {value.hex()}
    assert {bytes.fromhex(each.split(":")[1]).decode() for each in members} == set(stage.drivers)


def test_no_increment_is_lost_between_them(stage: Stage) -> None:
    counted = stage.all(lambda _, driver: increment(driver, b"counter", INCREMENTS))
    done, perhaps = (sum(each[place] for each in counted.values()) for place in (0, 1))  # type: ignore[index]
    answer = _until_done(stage.drivers["c"], "get", key=b"counter", quorum=1)
    assert done <= int(bytes.fromhex(answer.split("value=")[1])) <= done + perhaps


def test_each_may_do_what_its_token_says(stage: Stage) -> None:
    reader = tokens.token(scope=SCOPE, holder="reader", rights=tokens.Right.READ).text

    def denied(name: str, driver: Driver) -> list[str]:
        driver.ask("open", nodes=stage.nodes, token=reader, timeout_ms=TIMEOUT_MS)
        answers = [
            _until_done(driver, "put", key=b"counter", value=b"0"),
            _until_done(driver, "delete", key=b"counter"),
            _until_done(driver, "announce", set=b"all", payload=b"x", ttl=9),
        ]
        driver.ask("open", nodes=stage.nodes, scope=SCOPE.encode(), timeout_ms=TIMEOUT_MS)
        answers.append(_until_done(driver, "get", key=b"counter"))
        driver.ask("open", nodes=stage.nodes, token=stage.tokens[name].text, timeout_ms=TIMEOUT_MS)
        return answers

    assert stage.all(denied) == dict.fromkeys(stage.drivers, ["error DENIED"] * 4)


def test_every_byte_that_was_sent(stage: Stage) -> None:
    for number in range(100):  # until something was lost
        for driver in stage.drivers.values():
            _until_done(driver, "put", key=b"bytes %d" % number, value=b"x")
        if number and any(request[ATTEMPT] for request in stage.sniffer.requests):
            break
    known = {holder_of(name): token for name, token in stage.tokens.items()}
    attempts = requests_seen.check(stage.sniffer.requests, known)
    assert attempts.keys() == known.keys()
    print({name: (len(attempts[holder_of(name)]), max(attempts[holder_of(name)])) for name in stage.drivers})
    assert any(max(each) > 0 for each in attempts.values())


def _until_done(driver: Driver, word: str, **fields: object) -> str:
    """The answer, once there is no doubt."""
    for _ in range(20):
        answer = driver.ask(word, **fields)
        if answer not in ("error UNCONFIRMED", "error TIMEOUT", "error BUSY"):
            return answer
    raise AssertionError(f"{word} {fields}: {answer}")
