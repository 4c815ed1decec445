"""The ruleset in a real kernel: applied, replaced, removed, and what it does to packets.

bridge --+-- node eth0  10.20.0.1/24, fd20::1/64
         +-- peer eth0  10.20.0.2/24, fd20::2/64
"""

import json
import os
import subprocess
import sys
from ipaddress import ip_network

import pytest
from chain import CLUSTER, IDS, request
from nfq import arrived, echo_through, udp

from kdht.datapath.host import netlink, ruleset
from kdht.datapath.host.netlink import Queue
from kdht.datapath.host.ruleset import Guard, Ruleset, RulesetOptions, probe_queue
from kdht.datapath.rates import ClientRates
from kdht.datapath.senders import Senders
from kdht.errors import DatapathError
from kdht.lab.netns import Host, Lab
from kdht.wire import Message, seal
from kdht.wire._shared import PORT, Flag, Op

pytestmark = pytest.mark.root

NODE, PEER = {4: "10.20.0.1", 6: "fd20::1"}, {4: "10.20.0.2", 6: "fd20::2"}
FOREIGN = """
table inet other {
    set known { type ipv4_addr; elements = { 192.0.2.1 }; }
    chain input {
        type filter hook input priority 0; policy accept;
        ip saddr @known counter packets 5 bytes 300 drop
    }
}
table ip raw { chain prerouting { type filter hook prerouting priority raw; policy accept; }
}
"""


@pytest.fixture
def node(lab: Lab) -> Host:
    lab.host("peer", ipv4=f"{PEER[4]}/24", ipv6=f"{PEER[6]}/64")
    return lab.host("node", ipv4=f"{NODE[4]}/24", ipv6=f"{NODE[6]}/64")


@pytest.fixture
def make(node: Host):
    """Applies a ruleset in the node's namespace. Queues without a worker: all packets go on."""

    def make(**options: object) -> Ruleset:
        made = Ruleset(RulesetOptions(**{"interfaces": ("eth0",), "queue": Queue(7, 1, False), **options}))
        with node.enter():
            made.apply()
        return made

    return make


def listed(host: Host, *what: str) -> str:
    return host.run(["nft", "list", *what]).stdout


def member_message() -> bytes:
    message = Message(op=Op.PING, key=IDS[0], request_id=1, flags=Flag.FORWARDED, hops=1).pack()
    seal(message, CLUSTER, 1)
    return bytes(message)


# --- Apply, replace, remove ----------------------------------------------------------


def test_apply_and_remove(node: Host, make) -> None:
    made = make()
    with node.enter():
        assert made.present()
        assert set(made.counters()) >= {"clients", "members", "forwarded", "unrouted"}
        made.remove()
        assert not made.present()
        assert made.counters() == {}
        made.remove()
    assert listed(node, "tables") == ""


def test_this_kernel_queues_one_way_or_the_other(node: Host) -> None:
    with node.enter():
        assert probe_queue() in ("native", "compat")
    assert listed(node, "tables") == "", "the probe leaves nothing behind"


def test_the_queue_rule_is_there(node: Host, make) -> None:
    make()
    rules = json.loads(
        listed_json := node.run(["nft", "-j", "list", "chain", "inet", "kdht", "to_queue"]).stdout
    )
    rule = next(entry["rule"] for entry in rules["nftables"] if "rule" in entry)
    assert "NFQUEUE" in listed_json or "queue" in listed_json
    assert len(rule["expr"]) == 1


def test_the_native_text_is_what_nft_reads(node: Host) -> None:
    """A kernel without nft_queue refuses the one statement, and nothing else."""
    text = Ruleset(RulesetOptions(interfaces=("eth0",), queue=Queue(7, 2, True))).text("native")
    done = node.run(["nft", "-c", "-f", "-"], check=False, input=text)
    errors = [line for line in done.stderr.splitlines() if "rror" in line]
    assert all("No such file or directory" in error for error in errors)
    assert len(errors) <= 1
    assert not errors or "queue num 7-8 bypass,fanout" in done.stderr


def test_a_table_left_by_a_crash_is_replaced(node: Host, make) -> None:
    node.nft("table inet kdht { chain stale { type filter hook input priority 0; policy drop; }\n }")
    make(port=9000)
    text = listed(node, "table", "inet", "kdht")
    assert "stale" not in text
    assert "udp dport 9000" in text


def test_applying_twice_is_the_same_as_once(node: Host, make) -> None:
    make()
    once = listed(node, "ruleset")
    make()
    assert listed(node, "ruleset") == once


def test_foreign_tables_are_not_touched(node: Host, make) -> None:
    node.nft(FOREIGN)
    before = listed(node, "ruleset")
    made = make(rates=ClientRates(10, 10))
    foreign = [listed(node, "table", *name) for name in (("inet", "other"), ("ip", "raw"))]
    assert "".join(foreign) == before
    with node.enter():
        made.remove()
    assert listed(node, "ruleset") == before


def test_two_nodes_in_one_namespace_have_two_tables(node: Host, make) -> None:
    first, second = make(), make(table="kdht_two", port=9000, queue=Queue(9, 1, False))
    with node.enter():
        first.remove()
        assert second.present()
        assert not first.present()


def test_guarded_interfaces_can_be_changed_while_it_runs(node: Host, make) -> None:
    made = make(guard=Guard(forward4=frozenset({"eth0"}), forward6_all=True))
    assert listed(node, "set", "inet", "kdht", "guarded4").count("eth0") == 1
    with node.enter():
        made.set_guard(Guard(forward6=frozenset({"eth0"})))
    assert "eth0" not in listed(node, "set", "inet", "kdht", "guarded4")
    assert "eth0" in listed(node, "set", "inet", "kdht", "guarded6")
    assert "ipv6" not in listed(node, "set", "inet", "kdht", "guarded")


# --- What cannot work -----------------------------------------------------------------


def test_no_nft_binary(node: Host, make) -> None:
    with pytest.raises(DatapathError, match="cannot find /nowhere/nft: install nftables"):
        make(nft="/nowhere/nft")


def test_a_rule_that_the_kernel_refuses_leaves_nothing(node: Host, make) -> None:
    with pytest.raises(DatapathError):
        make(queue=Queue(65535, 2, False))
    assert listed(node, "tables") == ""


def test_a_bad_ruleset_leaves_the_old_one(node: Host, make) -> None:
    make()
    before = listed(node, "ruleset")
    with pytest.raises(DatapathError, match="nft refused the ruleset"):
        make(interfaces=("far-too-long-for-an-interface",))
    assert listed(node, "ruleset") == before


def test_no_nfqueue_in_the_kernel(node: Host, make, monkeypatch) -> None:
    """The kernel here has NFQUEUE, so its refusal (tried for real above) is put in its mouth."""

    def refuse(table: str, chain: str, queue: Queue) -> None:
        raise DatapathError("no such target")

    real = ruleset.run_nft

    def without_queue(nft: str, arguments: list[str], script: str = "") -> str:
        if "queue num" in script:
            raise DatapathError("No such file or directory")
        return real(nft, arguments, script)

    monkeypatch.setattr(netlink, "add_queue_rule", refuse)
    monkeypatch.setattr(ruleset, "run_nft", without_queue)
    with pytest.raises(DatapathError, match="this kernel has no NFQUEUE"):
        make()
    assert listed(node, "tables") == ""


def test_no_root(node: Host) -> None:
    code = (
        "import os; os.setgid(65534); os.setuid(65534)\n"
        "from kdht.datapath.host.ruleset import probe_queue\n"
        "from kdht.errors import DatapathError\n"
        "try: probe_queue()\n"
        "except DatapathError as error: print(error)\n"
    )
    path = os.pathsep.join(sys.path)
    said = subprocess.run(
        [sys.executable, "-c", "import kdht.datapath.host.ruleset\n" + code],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert said.stdout.startswith("nftables needs root (CAP_NET_ADMIN)")


# --- Which packets --------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
def test_only_our_messages_to_our_addresses_are_diverted(lab: Lab, node: Host, make, family: int) -> None:
    """Without a worker the bypass hands everything on to the socket, our messages too."""
    made = make()
    with udp(node, NODE[family], PORT) as ours, udp(node, NODE[family], PORT + 1) as other:
        with udp(lab.hosts["peer"], PEER[family]) as peer:
            sent = [request(), member_message(), b"KDHS" + bytes(108), b"KDH", b""]
            for data in sent:
                peer.sendto(data, (NODE[family], PORT))
            peer.sendto(request(), (NODE[family], PORT + 1))
            echo_through(peer, other, (NODE[family], PORT + 1))
        assert [data for data, _, _ in arrived(ours)] == sent
    with node.enter():
        counters = made.counters()
    assert (counters["clients"], counters["members"]) == (1, 1)


TRACKING = """
table inet tracking {
    counter untracked { }
    counter tracked { }
    chain prerouting {
        type filter hook prerouting priority filter;
        udp dport { %d, %d } ct state untracked counter name untracked accept
        udp dport { %d, %d } counter name tracked
    }
}
"""


@pytest.mark.parametrize("family", [4, 6])
def test_connections_are_tracked_but_for_what_is_re_addressed(
    lab: Lab, node: Host, make, family: int
) -> None:
    """Without a worker all goes to the socket. Another rule sets the worker's mark on members' messages."""
    made = make()
    node.nft(TRACKING % (PORT, PORT + 1, PORT, PORT + 1))
    node.nft(
        "table inet worker { chain prerouting { type filter hook prerouting priority raw; "
        f"udp dport {PORT} @th,112,8 & 0x02 == 0x02 meta mark set {made.options.mark:#x}; }}; }}"
    )
    peer = lab.hosts["peer"]
    with udp(node, NODE[family], PORT + 1) as other, udp(peer, PEER[family]) as sender:
        for data in (request(), member_message(), b"not one of ours"):
            sender.sendto(data, (NODE[family], PORT))
        echo_through(sender, other, (NODE[family], PORT + 1))
    counted = node.counters()
    assert (counted["untracked"], counted["tracked"]) == (1, 3)


@pytest.mark.parametrize("family", [4, 6])
def test_packets_for_others_are_not_diverted(lab: Lab, node: Host, make, family: int) -> None:
    """The node routes here: what is not addressed to it passes its prerouting untouched."""
    made = make()
    behind = {4: "10.21.0.9", 6: "fd21::9"}[family]
    peer = lab.hosts["peer"]
    peer.run(["ip", "route", "add", behind, "via", NODE[family]])
    with udp(node, NODE[family], PORT + 1) as other, udp(peer, PEER[family]) as sender:
        sender.sendto(request(), (behind, PORT))
        echo_through(sender, other, (NODE[family], PORT + 1))
    with node.enter():
        assert made.counters()["clients"] == 0


@pytest.mark.parametrize(("op", "rate"), [(Op.GET, 16), (Op.PUT, 24), (Op.QUORUM_GET, 2), (Op.TRACE, 2)])
@pytest.mark.parametrize("family", [4, 6])
def test_sources_above_their_rate_are_dropped_and_counted(
    lab: Lab, node: Host, make, family: int, op: Op, rate: int
) -> None:
    """Writes have a rate of their own, dearer reads an eighth of a GET's, and members none."""
    made = make(rates=ClientRates(16, 24))
    sent = 60
    with udp(node, NODE[family], PORT) as ours, udp(node, NODE[family], PORT + 1) as other:
        with udp(lab.hosts["peer"], PEER[family]) as peer:
            for _ in range(sent):
                peer.sendto(request(op), (NODE[family], PORT))
                peer.sendto(member_message(), (NODE[family], PORT))
            echo_through(peer, other, (NODE[family], PORT + 1))
        got = [data[6] & Flag.FORWARDED for data, _, _ in arrived(ours)]
    with node.enter():
        counters = made.counters()
    clients = got.count(0)
    assert rate <= clients <= rate + 8
    assert counters["limited"] == sent - clients
    assert got.count(Flag.FORWARDED) == sent


@pytest.mark.parametrize("family", [4, 6])
def test_addresses_that_may_not_write_are_dropped_and_counted(
    lab: Lab, node: Host, make, family: int
) -> None:
    made = make(senders=Senders(write_refused=(ip_network(PEER[family]),)))
    with udp(node, NODE[family], PORT) as ours, udp(node, NODE[family], PORT + 1) as other:
        with udp(lab.hosts["peer"], PEER[family]) as peer:
            for op in (Op.GET, Op.PUT, Op.DELETE, Op.TRACE):
                peer.sendto(request(op), (NODE[family], PORT))
            peer.sendto(member_message(), (NODE[family], PORT))
            echo_through(peer, other, (NODE[family], PORT + 1))
        got = [data[5] for data, _, _ in arrived(ours)]
    with node.enter():
        assert made.counters()["not_allowed"] == 2
        assert got == [Op.GET, Op.TRACE, Op.PING]
    make(senders=Senders(refused=(ip_network(PEER[family]),)))
    with udp(node, NODE[family], PORT) as ours, udp(node, NODE[family], PORT + 1) as other:
        with udp(lab.hosts["peer"], PEER[family]) as peer:
            peer.sendto(request(), (NODE[family], PORT))
            echo_through(peer, other, (NODE[family], PORT + 1))
        assert arrived(ours) == []


def test_one_noisy_source_does_not_cost_others(lab: Lab, node: Host, make) -> None:
    make(rates=ClientRates(10))
    peer = lab.hosts["peer"]
    peer.add_address("eth0", "10.20.0.3/24")
    with udp(node, NODE[4], PORT) as ours, udp(node, NODE[4], PORT + 1) as other:
        with udp(peer, PEER[4]) as noisy, udp(peer, "10.20.0.3") as quiet:
            for _ in range(60):
                noisy.sendto(request(), (NODE[4], PORT))
            for _ in range(5):
                quiet.sendto(request(), (NODE[4], PORT))
            echo_through(noisy, other, (NODE[4], PORT + 1))
        senders = [host for _, host, _ in arrived(ours)]
    assert senders.count("10.20.0.3") == 5


def test_sources_beyond_the_table_share_one_limit(lab: Lab, node: Host, make) -> None:
    made = make(rates=ClientRates(1), table_size=2)
    peer = lab.hosts["peer"]
    hosts = [f"10.20.0.{number}" for number in range(10, 60)]
    for host in hosts:
        peer.add_address("eth0", f"{host}/24")
    sent = 0
    with udp(node, NODE[4], PORT + 1) as other, udp(peer, PEER[4]) as last:
        for host in hosts:
            with udp(peer, host) as sender:
                for _ in range(4):
                    sender.sendto(request(), (NODE[4], PORT))
                    sent += 1
        echo_through(last, other, (NODE[4], PORT + 1))
    remembered = json.loads(node.run(["nft", "-j", "list", "set", "inet", "kdht", "readers4"]).stdout)
    with node.enter():
        counters = made.counters()
    assert counters["clients"] == sent
    assert len(remembered["nftables"][1]["set"]["elem"]) <= 2
    assert 0 < counters["limited"] < sent
