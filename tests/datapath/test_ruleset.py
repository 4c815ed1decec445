"""The ruleset's text and the choice of queues; tests/root/test_nft.py loads it into a kernel."""

import os
from ipaddress import ip_network

import pytest

from kdht.datapath.host.netlink import Queue
from kdht.datapath.host.ruleset import Guard, Ruleset, RulesetOptions, ruleset_path
from kdht.datapath.nfqueue.datapath import NfqueueOptions
from kdht.datapath.rates import ClientRates
from kdht.datapath.senders import Senders
from kdht.wire import Address
from kdht.wire._shared import MAGIC, PORT


def text(**options: object) -> str:
    usual = {"interfaces": ("eth1", "eth0"), "queue": Queue(10, 4, True)}
    return Ruleset(RulesetOptions(**{**usual, **options})).text("native")


def test_all_parameters_reach_the_text() -> None:
    made = text(rates=ClientRates(77, 5), port=9000, mark=0x55, table="two", table_size=99)
    rules = made.partition("table inet two {}")[2]
    assert "$" not in rules
    assert f"udp dport 9000 @th,64,32 {MAGIC:#010x}" in rules
    assert "goto limit_writes" in rules
    assert "counter name members goto to_queue" in rules
    for rate in (77, 9, 5):
        assert f"limit rate over {rate}/second" in rules
    assert "meta mark 0x55 counter name forwarded accept" in rules
    assert rules.count("size 99;") == 6
    assert 'add element inet two interfaces { "eth0", "eth1" }' in rules


def test_no_rate_is_no_limit() -> None:
    made = text()
    assert "counter name members goto to_queue" in made
    assert "goto limit_" not in made


@pytest.mark.parametrize(
    ("senders", "rules"),
    [
        (Senders(), []),
        (
            Senders(refused=(ip_network("10.9.0.0/16"), ip_network("10.9.1.0/24"), ip_network("fd00::/8"))),
            ["ip saddr { 10.9.0.0/16 } counter", "ip6 saddr { fd00::/8 } counter"],
        ),
        (
            Senders(allowed=(ip_network("10.0.0.0/8"),)),
            ["ip saddr != { 10.0.0.0/8 } counter", "meta nfproto ipv6 counter"],
        ),
        (
            Senders(write_refused=(ip_network("10.0.0.7/32"),)),
            ["@th,104,8 { 2, 3, 7, 8 } ip saddr { 10.0.0.7/32 } counter"],
        ),
    ],
)
def test_lists_of_senders_become_rules(senders: Senders, rules: list[str]) -> None:
    chain = text(senders=senders).partition("chain senders {")[2].partition("}\n\n")[0]
    found = [line.strip() for line in chain.splitlines() if "drop" in line]
    assert found == [f"{rule} name not_allowed drop" for rule in rules]


@pytest.mark.parametrize(
    ("queue", "statement"),
    [
        (Queue(7, 1, False), "queue num 7 bypass\n"),
        (Queue(7, 2, False), "queue num 7-8 bypass\n"),
        (Queue(7, 2, True), "queue num 7-8 bypass,fanout\n"),
    ],
)
def test_the_native_statement(queue: Queue, statement: str) -> None:
    assert statement in text(queue=queue)


def test_the_compat_text_has_no_queue_statement() -> None:
    options = RulesetOptions(interfaces=("eth0",), queue=Queue(7, 1, False))
    assert "queue num" not in Ruleset(options).text("compat")


def test_guards_become_elements() -> None:
    made = text(guard=Guard(forward4=frozenset({"eth0"}), forward6_all=True, martian4=frozenset({"eth1"})))
    assert 'guarded4 { "eth0" }' in made
    assert "guarded { ipv6 }" in made
    assert 'strict4 { "eth1" }' in made
    assert "guarded6 {" not in made.partition("add element")[2]


def test_the_ruleset_is_found() -> None:
    assert ruleset_path().name == "kdht.nft"


@pytest.mark.parametrize(
    ("queues", "fanout", "by_cpu"),
    [
        (1, "auto", False),
        (1, "cpu", False),
        (os.cpu_count(), "auto", os.cpu_count() > 1),
        (os.cpu_count() + 1, "auto", False),
        (3, "cpu", True),
        (3, "hash", False),
    ],
)
def test_a_queue_for_every_processor_is_chosen_by_processor(queues: int, fanout: str, by_cpu: bool) -> None:
    options = NfqueueOptions(addresses=(Address.of("10.0.0.1", PORT),), queues=queues, fanout=fanout)
    assert options.queue == Queue(PORT, queues, by_cpu)
