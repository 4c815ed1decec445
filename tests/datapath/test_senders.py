"""The table of prefixes, against the lists taken literally."""

import random
from ipaddress import ip_address, ip_network

import pytest

from kdht._routing import Core
from kdht.datapath.senders import Senders
from kdht.faces.senders import SenderRights
from kdht.replay.oracle import OracleSettings, SlowNode, SlowTable
from kdht.wire import Address
from kdht.wire._shared import MAX_PREFIXES, MAY_READ, MAY_WRITE, TAG_KEY_LEN

SETTINGS = {
    "self_id": bytes(20), "port": 5348, "own": [], "source4": None, "source6": None,
    "keys": [(1, bytes(TAG_KEY_LEN))], "cookie_key": bytes(16),
}  # fmt: skip


def rights_by_the_lists(senders: Senders, host: str) -> int:
    ip = ip_address(host)

    def passes(allowed, refused) -> bool:
        inside = [any(ip in network for network in networks) for networks in (allowed, refused)]
        return (not allowed or inside[0]) and not inside[1]

    reads = passes(senders.allowed, senders.refused)
    writes = reads and passes(senders.write_allowed, senders.write_refused)
    return MAY_READ * reads | MAY_WRITE * writes


def rights_by_the_table(senders: Senders, host: str) -> int:
    node = SlowNode(OracleSettings(**SETTINGS, prefixes=senders.prefixes()), SlowTable(bytes(20)))
    return node._rights_of(Address.of(host, 1).ip)


def random_networks(rng: random.Random) -> tuple:
    texts = [f"10.{rng.randrange(2)}.0.0/{rng.choice((7, 8, 15, 16, 24))}" for _ in range(rng.randrange(4))]
    texts += [f"fd00:{rng.randrange(2)}::/{rng.choice((0, 16, 32, 48))}" for _ in range(rng.randrange(3))]
    return tuple(ip_network(text, strict=False) for text in texts)


def test_the_table_matches_the_lists():
    rng = random.Random(1)
    hosts = [f"10.{b}.{c}.1" for b in range(3) for c in (0, 1)] + ["192.0.2.1", "0.0.0.1"]
    hosts += [f"fd00:{b:x}::{c}" for b in range(3) for c in (1, 2)] + ["2001:db8::1", "::1"]
    for _ in range(300):
        senders = Senders(*(random_networks(rng) for _ in range(4)))
        for host in hosts:
            expected = rights_by_the_lists(senders, host)
            assert rights_by_the_table(senders, host) == expected, (senders, host)
            assert SenderRights(senders.prefixes()).of(Address.of(host, 1).ip) == expected, (senders, host)


def test_without_lists_there_is_no_table():
    assert Senders().prefixes() is None


def test_an_ipv6_network_of_everybody_says_nothing_of_ipv4():
    senders = Senders(allowed=(ip_network("::/0"),))
    assert rights_by_the_table(senders, "2001:db8::1") == MAY_READ | MAY_WRITE
    assert rights_by_the_table(senders, "10.0.0.1") == 0


@pytest.mark.parametrize(
    "prefixes",
    [
        [(bytes(16), 129, 3)],
        [(bytes(15), 8, 3)],
        [(bytes(16), 8, 4)],
        [(bytes(16), 1, 3)] * (MAX_PREFIXES + 1),
    ],
)
def test_an_impossible_table_is_refused(prefixes):
    with pytest.raises(ValueError, match="prefix"):
        Core().configure(**SETTINGS, prefixes=prefixes)
