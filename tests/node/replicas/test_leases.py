"""Leases: bounded for a key, a client and in all; refusals cost as little as the rest; no set clock ends one."""

import time

import pytest

from kdht.node.replicas import leases
from kdht.node.replicas.leases import MAX_LEASES, MAX_OF_CLIENT, MAX_OF_CLIENT_AT_KEY, MAX_WATCHERS, Leases


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def kept(clock):
    return Leases(clock)


def ipv4(host: int) -> bytes:
    return bytes(10) + b"\xff\xff" + host.to_bytes(4, "big")


def who(address: bytes, number: int = 0) -> bytes:
    """Port, address and request ID."""
    return b"\x14\xe4" + address + number.to_bytes(8, "big")


def key(number: int) -> bytes:
    return number.to_bytes(20, "big")


def request(name: object) -> object:
    """Leases only hand it back."""
    return name


def test_a_lease_ends_by_itself_and_a_renewal_keeps_it(kept, clock):
    assert kept.renew(key(1), who(ipv4(1)), request("a"), 10)
    clock.now += 9
    assert kept.watching(key(1)) == ["a"]
    assert kept.renew(key(1), who(ipv4(1)), request("b"), 10)
    clock.now += 9
    assert kept.watching(key(1)) == ["b"]
    clock.now += 2
    assert kept.watching(key(1)) == []
    assert len(kept) == 0


def test_a_lease_of_0_seconds_ends_it(kept):
    kept.renew(key(1), who(ipv4(1)), request("a"), 10)
    assert kept.renew(key(1), who(ipv4(1)), request("a"), 0)
    assert kept.renew(key(1), who(ipv4(1)), request("a"), 0)
    assert (kept.watching(key(1)), len(kept)) == ([], 0)


def test_each_client_has_a_limit_of_watches(kept):
    taken = sum(kept.renew(key(n), who(ipv4(1), n), request(n), 60) for n in range(2 * MAX_OF_CLIENT))
    assert taken == MAX_OF_CLIENT
    assert kept.renew(key(1), who(ipv4(2)), request("other"), 60)
    kept.renew(key(0), who(ipv4(1), 0), request(0), 0)
    assert kept.renew(key(5000), who(ipv4(1), 5000), request("again"), 60)


@pytest.mark.parametrize("address", [ipv4(1), bytes.fromhex("20010db8000000010000000000000001")])
def test_one_client_keeps_no_other_from_a_key(kept, address):
    taken = [kept.renew(key(1), who(address, n), request(n), 60) for n in range(2 * MAX_WATCHERS)]
    assert sum(taken) == MAX_OF_CLIENT_AT_KEY < MAX_WATCHERS
    assert kept.renew(key(1), who(ipv4(2)), request("other"), 60)
    assert kept.renew(key(2), who(address), request("another key"), 60)
    kept.renew(key(1), who(address, 0), request(0), 0)
    assert kept.renew(key(1), who(address, 5000), request("again"), 60)


def test_the_addresses_of_one_ipv6_network_are_one_client(kept):
    network = bytes.fromhex("20010db800000001")
    taken = [
        kept.renew(key(n), who(network + n.to_bytes(8, "big")), request(n), 60)
        for n in range(2 * MAX_OF_CLIENT)
    ]
    assert sum(taken) == MAX_OF_CLIENT
    assert kept.renew(key(1), who(bytes.fromhex("20010db800000002") + bytes(8)), request("other"), 60)


def test_a_key_and_a_node_have_bounds(kept):
    assert (
        sum(kept.renew(key(1), who(ipv4(n)), request(n), 60) for n in range(MAX_WATCHERS + 9)) == MAX_WATCHERS
    )
    for n in range(MAX_WATCHERS, MAX_LEASES):
        assert kept.renew(key(n), who(ipv4(n)), request(n), 60)
    assert not kept.renew(key(0), who(ipv4(99999)), request("one more"), 60)
    assert kept.renew(key(1), who(ipv4(1)), request("renewed"), 60), "a renewal needs no room"
    assert len(kept) == MAX_LEASES


def full(kept: Leases, seconds: int) -> None:
    for n in range(MAX_LEASES):
        kept.renew(key(n), who(ipv4(n)), request(n), seconds)


def test_a_refusal_costs_no_walk_over_all_leases(kept):
    """It was 3.9 ms each: 100,000 of them stopped every write for 40 s."""
    full(kept, 600)
    began = time.perf_counter()
    for n in range(10_000):
        assert not kept.renew(key(n), who(ipv4(70_000 + n)), request(n), 60)
    assert (time.perf_counter() - began) / 10_000 < 0.0003


def test_renewals_do_not_pile_up(kept):
    for n in range(5000):
        kept.renew(key(n % 10), who(ipv4(n % 10)), request(n), 60)
    assert len(kept._ends) <= 2 * 10 + leases.ENDED_AT_ONCE + 1


def test_ended_leases_make_room_a_few_at_a_time(kept, clock):
    full(kept, 10)
    clock.now += 11
    for n in range(MAX_LEASES):
        assert kept.renew(key(n), who(ipv4(100_000 + n)), request(n), 10), "the first finds room at once"
    assert len(kept) == MAX_LEASES


def test_an_expired_lease_gets_no_news(kept, clock):
    for n in range(3 * leases.ENDED_AT_ONCE):
        kept.renew(key(1), who(ipv4(n)), request(n), 10)
    clock.now += 11
    assert kept.watching(key(1)) == []
