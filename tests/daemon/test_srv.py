"""SRV records of _kdht._udp in node.bootstrap, from a small name server of the test's own."""

import socket
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from kdht.config.reading import build
from kdht.config.settings import resolve
from kdht.daemon import bootstrap
from kdht.wire import Address

SERVICE = "_kdht._udp.example.test"
RECORDS = {
    SERVICE: ["20 0 5348 127.0.0.3.", "10 0 7001 127.0.0.2.", "10 0 7002 127.0.0.2."],
    "_kdht._udp.none.test": ["0 0 0 ."],
    "_kdht._udp.itself.test": ["0 0 5348 10.0.0.1."],
    "_kdht._udp.strange.test": ["0 0 0 127.0.0.2.", "0 0 5349 not\\032a\\032host.", "0 0 5350 127.0.0.2."],
    "_kdht._udp.many.test": [f"0 0 {port} 127.0.0.2." for port in range(6000, 6008)],
}


@pytest.fixture(autouse=True)
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = sock.getsockname()[1]
        monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
        thread = threading.Thread(target=_answer, args=(sock,))
        thread.start()
        yield
        sock.sendto(b"", sock.getsockname())
        thread.join()


def _answer(sock: socket.socket) -> None:
    while True:
        data, source = sock.recvfrom(2048)
        if not data:
            return
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        name = question.question[0].name
        records = RECORDS.get(name.to_text(omit_final_dot=True).lower())
        if records:
            answer.answer.append(dns.rrset.from_text_list(name, 60, "IN", "SRV", records))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        sock.sendto(answer.to_wire(), source)


def found(*names: str) -> bootstrap.BootstrapAddresses:
    return bootstrap.resolve_bootstrap(
        resolve(
            build(
                {
                    "node": {"listen": ["10.0.0.1"], "bootstrap": list(names)},
                    "key": [{"secret": "0123456789abcdef"}],
                    "access": {"writes": "open"},
                }
            )
        )
    )


def test_the_records_name_hosts_and_ports_the_preferred_ones_first() -> None:
    wanted = [("127.0.0.2", 7001), ("127.0.0.2", 7002), ("127.0.0.3", 5348)]
    assert found(SERVICE).addresses == [Address.of(*each) for each in wanted]


def test_the_name_is_of_any_case_and_beside_others() -> None:
    assert found("10.0.0.9", SERVICE.upper()).addresses[0] == Address.of("10.0.0.9", 5348)
    assert len(found("10.0.0.9", SERVICE.upper()).addresses) == 4


@pytest.mark.parametrize("name", ["_kdht._udp.absent.test", "_kdht._udp.none.test", "_kdht._udp." + "x" * 64])
def test_a_service_without_nodes_is_waited_for(name: str) -> None:
    assert found(name) == ([], [name], [])
    assert found(name).must_wait


def test_a_node_that_is_named_alone_is_the_first_of_its_cluster() -> None:
    assert found("_kdht._udp.itself.test") == ([], [], [])


def test_records_that_name_no_host_are_left_out() -> None:
    assert found("_kdht._udp.strange.test").addresses == [Address.of("127.0.0.2", 5350)]


def test_many_records_are_all_asked() -> None:
    assert len(found("_kdht._udp.many.test").addresses) == 8
