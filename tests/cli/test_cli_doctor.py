"""doctor: every check on made-up subjects, good and bad; and the whole against a real node."""

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import contact, node_stats, node_status, routing_table
from ctl import Ctl
from daemons import KDHTCTL, DevNode, free_port, run
from msgspec import structs

from kdht.cli.doctor import CHECKS, examine, firewall, host, kernel, links, node
from kdht.cli.doctor.datagrams import answering, bound
from kdht.cli.doctor.findings import Finding, Subject
from kdht.config import reading as config
from kdht.config import settings
from kdht.datapath.host.netlink import XdpState
from kdht.datapath.host.ruleset import MARK
from kdht.errors import DatapathError
from kdht.program.answers import StorageCounters
from kdht.wire import Address

PORT = 5348


def subject(
    tmp_path: Path, *clocks: float, kind: str = "nfqueue", not_from: Sequence[str] = (), **changes: Any
) -> Subject:
    """A healthy node with an interface eth0, and what is changed of it."""
    made = settings.resolve(
        config.build(
            {
                "node": {"listen": [f"127.0.0.1:{PORT}"], "data_dir": str(tmp_path)},
                "key": [{"secret": "sixteen bytes or more"}],
                "datapath": {"kind": kind},
                "access": {"not_from": list(not_from)},
            }
        )
    )
    status = node_status(
        data_dir=str(tmp_path),
        datapaths=[{"name": "socket", "state": "up"}, {"name": kind, "state": "up", "program": 7}],
    )
    stats = node_stats(packets={"all": {"BAD_TAG": 0, "STALE": 0}})
    given = {
        "config_path": tmp_path / "kdhtd.toml",
        "socket": tmp_path / "control.sock",
        "settings": made,
        "config_error": "",
        "status": status,
        "stats": stats,
        "table": routing_table(*(contact(clock=clock) for clock in clocks)),
        "daemon_error": "",
        "is_root": True,
        "own": (Address.of("127.0.0.1", PORT),),
        "interfaces": ("eth0",),
    }
    return Subject(**{**given, **changes})


def found(check: Callable[[Subject], Iterator[Finding]], subject: Subject) -> list[Finding]:
    """Every line that is not ok says what mends it."""
    findings = list(check(subject))
    assert all(each.mend for each in findings if each.state != "ok"), findings
    return findings


def states(findings: list[Finding]) -> list[str]:
    return [each.state for each in findings]


# --- The node


def test_a_healthy_node(tmp_path):
    well = subject(tmp_path, 0.2, -0.4)
    for check in (
        node.configuration,
        node.daemon,
        node.datapaths,
        node.dropped,
        node.clock,
        node.data_directory,
    ):
        assert set(states(found(check, well))) == {"ok"}, check


def test_config_check_reports_errors_and_warnings(tmp_path):
    broken = subject(tmp_path, settings=None, config_error="node.listen is 3: expected a list")
    (finding,) = found(node.configuration, broken)
    assert (finding.state, finding.what) == ("failure", broken.config_error)
    well = subject(tmp_path)
    readable = replace(well.settings, warnings=("s: every user can read the secret: chmod 600 s",))
    finding = found(node.configuration, replace(well, settings=readable))[-1]
    assert (finding.state, finding.mend) == ("warning", "chmod 600 s")


def test_a_missing_or_forbidden_daemon_is_one_line(tmp_path):
    gone = subject(tmp_path, status=None, stats=None, table=None, daemon_error="x: no such socket")
    assert found(node.daemon, gone)[0] == Finding("daemon", "failure", "x: no such socket", "kdhtd")


def test_who_may_not_use_the_control_socket_is_told_whether_a_node_answers(tmp_path):
    heard, silent = Address.of("10.0.0.1", PORT), Address.of("10.0.0.2", PORT)
    denied = subject(
        tmp_path, status=None, stats=None, table=None, daemon_error="x: permission denied", is_denied=True
    )
    (nobody,) = found(node.daemon, denied)
    assert (nobody.state, "port 5348 of this host" in nobody.what) == ("failure", True)
    (well,) = found(node.daemon, replace(denied, heard=(heard,)))
    assert (well.state, "A node answers at 10.0.0.1:5348" in well.what) == ("warning", True)
    assert "as root" in well.mend
    states = [each.state for each in found(node.daemon, replace(denied, heard=(heard,), silent=(silent,)))]
    assert states == ["warning", "failure"]


def test_programs_at_the_port_are_found_without_rights():
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.77", PORT))
        assert Address.of("127.0.0.77", PORT) in bound()
        assert answering([Address.of("127.0.0.77", PORT)]) == ([], [Address.of("127.0.0.77", PORT)])
    assert Address.of("127.0.0.77", PORT) not in bound()


@pytest.mark.parametrize(
    ("changes", "state"),
    [({"joined": False}, "failure"), ({"contacts": 0}, "warning"), ({"state": "stopping"}, "failure"),
     ({"ready": False, "waiting_for": ["sync"]}, "warning"),
     ({"not_writable": "2 nodes must confirm a write, and 1 lives: start the others"}, "failure"),
     ({"why_unreachable": "members at [fd00::1]:5348 speak IPv6 only: give it one"}, "failure"),
     ({"warnings": ["3 writes failed"]}, "warning")],
)  # fmt: skip
def test_a_daemon_that_is_not_well(tmp_path, changes, state):
    well = subject(tmp_path)
    findings = found(node.daemon, replace(well, status=structs.replace(well.status, **changes)))
    assert state in states(findings)


def test_datapaths_that_are_not_well(tmp_path):
    well = subject(tmp_path)
    degraded = node_status(datapaths=[{"name": "nfqueue", "state": "degraded", "why": "rules are gone"}])
    (finding,) = found(node.datapaths, replace(well, status=degraded))
    assert finding.state == "warning"
    assert "rules are gone" in finding.what
    only_socket = node_status(datapaths=[{"name": "socket", "state": "up"}])
    assert states(found(node.datapaths, replace(well, status=only_socket))) == ["ok", "warning"]
    auto = subject(tmp_path, kind="auto", status=only_socket)
    assert states(found(node.datapaths, auto)) == ["ok", "warning"]


def test_explain_names_likely_mistakes(tmp_path):
    well = subject(tmp_path)
    stats = node_stats(packets={"all": {"BAD_TAG": 3, "STALE": 1, "OWNER": 9}})
    findings = found(node.dropped, replace(well, stats=stats))
    assert states(findings) == ["warning", "warning"]


def test_senders_of_wrong_tags_are_named_as_far_as_they_are_known(tmp_path):
    packets = {"all": {"BAD_TAG": 30}, "socket": {"BAD_TAG": 30}}
    stats = node_stats(packets=packets, strangers={"10.0.0.9": 3.0})
    (finding,) = found(node.dropped, replace(subject(tmp_path), stats=stats))
    assert finding.what.startswith("30 packets BAD_TAG, the last from 10.0.0.9 (3 s ago): ")
    packets |= {"socket": {"BAD_TAG": 10}, "ebpf": {"BAD_TAG": 20}}
    (finding,) = found(node.dropped, replace(subject(tmp_path), stats=node_stats(packets=packets)))
    assert "(20 of them in XDP, which counts only: `kdhtctl datapath socket`" in finding.what


def test_full_queues(tmp_path):
    queues = [{"number": 1, "full": 0, "failed": 0}, {"number": 2, "full": 5, "failed": 0}]
    well = subject(tmp_path)
    findings = found(node.queues, replace(well, stats=node_stats(datapaths={"nfqueue": {"queues": queues}})))
    assert states(findings) == ["ok", "warning"]


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [((0.1, 3.0), ["ok"]), ((-9.0, -10.0, -8.0), ["warning"]), ((40.0, 41.0), ["failure"]),
     ((0.0, 0.1, 20.0), ["ok", "warning"]), ((), [])],
)  # fmt: skip
def test_clocks(tmp_path, clocks, expected):
    assert states(found(node.clock, subject(tmp_path, *clocks))) == expected


def test_a_full_disk_and_failed_writes(tmp_path, monkeypatch):
    well = subject(tmp_path)
    monkeypatch.setattr(node, "LEAST_FREE", 1 << 62)
    for disk_failed, state in ((False, "warning"), (True, "failure")):
        storage = StorageCounters(*[0] * 8, failed=2, disk_failed=disk_failed)
        findings = found(node.data_directory, replace(well, stats=node_stats(storage=storage)))
        assert states(findings) == ["warning", state]


# --- The kernel


def test_without_nft(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel.ruleset, "find_nft", lambda: None)
    assert states(found(kernel.queueing, subject(tmp_path))) == ["failure"]
    assert states(found(kernel.queueing, subject(tmp_path, kind="auto"))) == ["warning"]
    assert found(kernel.queueing, subject(tmp_path, kind="socket")) == []


@pytest.mark.parametrize(("way", "state"), [("native", "ok"), ("compat", "ok"), (None, "failure")])
def test_queueing(tmp_path, monkeypatch, way, state):
    monkeypatch.setattr(kernel.ruleset, "find_nft", lambda: "/usr/sbin/nft")
    monkeypatch.setattr(kernel.nfqueue, "need_package", lambda: None)
    monkeypatch.setattr(kernel.ruleset, "probe_queue", lambda: way)
    assert states(found(kernel.queueing, subject(tmp_path))) == ["ok", "ok", state]
    assert states(found(kernel.queueing, subject(tmp_path, is_root=False)))[-1] == "warning"


def test_an_old_kernel_without_btf(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel.program.platform, "release", lambda: "5.10.0-1-amd64")
    monkeypatch.setattr(kernel, "BTF", tmp_path / "none")
    findings = found(kernel.xdp, subject(tmp_path, kind="ebpf"))
    assert findings[1].state == "failure"
    assert "Linux 5.10.0-1-amd64 is too old for the XDP program, which needs 5.18" in findings[1].what
    assert ("BTF", "warning") in [(each.check, each.state) for each in findings]


def test_a_program_that_the_kernel_refuses(tmp_path, monkeypatch):
    def refuse():
        raise DatapathError("the kernel refuses the XDP program: the verifier's last line")

    monkeypatch.setattr(kernel.program, "try_load", refuse)
    findings = found(kernel.xdp, subject(tmp_path, kind="ebpf"))
    assert ("failure", "the kernel refuses the XDP program: the verifier's last line") in [
        (each.state, each.what) for each in findings
    ]
    assert len(found(kernel.xdp, subject(tmp_path, kind="ebpf", is_root=False))) == len(findings) - 1


# --- Interfaces


@pytest.mark.parametrize(
    ("kind", "mtu", "state"),
    [("nfqueue", 1500, "ok"), ("nfqueue", 1279, "failure"), ("nfqueue", 9000, "ok"), ("ebpf", 9000, "warning"),
     ("nfqueue", None, "failure")],
)  # fmt: skip
def test_mtu(tmp_path, monkeypatch, kind, mtu, state):
    monkeypatch.setattr(links.netlink, "mtu_of", lambda name: mtu)
    assert states(found(links.interfaces, subject(tmp_path, kind=kind))) == [state]


def test_loopback_alone_is_enough_for_the_socket(tmp_path):
    assert states(found(links.interfaces, subject(tmp_path, kind="auto", interfaces=()))) == ["ok"]
    assert states(found(links.interfaces, subject(tmp_path, interfaces=()))) == ["failure"]


@pytest.mark.parametrize(
    ("kind", "state", "expected"),
    [("ebpf", XdpState("native", 7), "ok"), ("ebpf", XdpState("generic", 7), "warning"),
     ("ebpf", XdpState("native", 8), "failure"), ("nfqueue", XdpState("native", 8), "warning"),
     ("ebpf", XdpState("", 0), "ok")],
)  # fmt: skip
def test_xdp_programs(tmp_path, monkeypatch, kind, state, expected):
    monkeypatch.setattr(links.netlink, "xdp_of", lambda name: state)
    assert states(found(links.programs, subject(tmp_path, kind=kind))) == [expected]


# --- Rules of others


def chain(hook: str, policy: str = "drop", table: str = "filter", family: str = "inet") -> dict[str, Any]:
    return {"chain": {"family": family, "table": table, "name": hook, "hook": hook, "policy": policy}}


def rule(*expr: dict[str, Any], family: str = "inet", table: str = "filter") -> dict[str, Any]:
    return {"rule": {"family": family, "table": table, "chain": "x", "expr": [*expr, {"accept": None}]}}


def match(left: dict[str, Any], right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": left, "right": right}}


DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
OUR_MARK = match({"meta": {"key": "mark"}}, MARK)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([chain("forward")], ["failure"]),
        ([chain("forward", policy="accept")], []),
        ([chain("forward", table="kdht")], []),
        ([chain("forward", table="kdht_guard")], []),
        ([chain("forward", family="ip6")], []),
        ([chain("forward", family="ip")], ["failure"]),
        ([chain("forward"), rule(OUR_MARK)], []),
        ([chain("forward"), rule(match(DPORT, PORT))], ["failure"]),
        ([chain("forward"), rule()], []),
        ([chain("forward"), rule(OUR_MARK, table="other")], ["failure"]),
        ([chain("input")], ["failure"]),
        ([chain("input"), rule(match(DPORT, 22))], ["failure"]),
        ([chain("input"), rule(match(DPORT, PORT))], []),
        ([chain("input"), rule(match(DPORT, {"set": [22, PORT]}))], []),
        ([chain("input"), rule(match(DPORT, {"range": [5000, 6000]}))], []),
        ([chain("input"), rule(match(DPORT, {"range": [5349, 6000]}))], ["failure"]),
        ([chain("input"), rule(match(DPORT, {"set": [22, {"range": [5300, 5400]}]}))], []),
        ([chain("input"), rule(match(DPORT, {"set": [22, {"range": [5300, 5347]}]}))], ["failure"]),
        ([chain("input"), rule(match({"payload": {"protocol": "th", "field": "dport"}}, PORT))], []),
        ([chain("input"), rule(match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}))], []),
        ([chain("input"), rule(match(DPORT, PORT), match({"ct": {"key": "state"}}, "new"))], []),
        (
            [chain("input"), rule(match({"ct": {"key": "state"}}, {"set": ["established", "related"]}))],
            ["failure"],
        ),
        (
            [chain("input"), rule(match({"meta": {"key": "iifname"}}, "other0"), match(DPORT, PORT))],
            ["failure"],
        ),
        ([chain("input"), rule(match(DPORT, "@ports"))], ["failure"]),
        ([chain("input"), rule(match(DPORT, {"range": ["a"]}))], ["failure"]),
        ([chain("output")], []),
    ],
)
def test_chains_that_drop(tmp_path, monkeypatch, listed, expected):
    monkeypatch.setattr(firewall.ruleset, "find_nft", lambda: "/usr/sbin/nft")
    monkeypatch.setattr(firewall.shutil, "which", lambda name: None)
    monkeypatch.setattr(firewall.ruleset, "run_nft", lambda nft, arguments: json.dumps({"nftables": listed}))
    findings = found(firewall.firewall, subject(tmp_path))
    assert states(findings) == (expected or ["ok"])


@pytest.mark.parametrize("said", ["", "{", "[]", "{}", '{"nftables"'])
def test_a_list_of_rules_that_cannot_be_read(tmp_path, monkeypatch, said):
    monkeypatch.setattr(firewall.ruleset, "find_nft", lambda: "/usr/sbin/nft")
    monkeypatch.setattr(firewall.shutil, "which", lambda name: None)
    monkeypatch.setattr(firewall.ruleset, "run_nft", lambda nft, arguments: said)
    assert states(found(firewall.firewall, subject(tmp_path))) == ["warning" if said else "ok"]


def dropping(address: Any, *more: dict[str, Any], field: str = "ip", op: str = "==") -> dict[str, Any]:
    left = {"payload": {"protocol": field, "field": "saddr"}}
    expr = [{"match": {"op": op, "left": left, "right": address}}, *more, {"drop": None}]
    return {"rule": {"family": "inet", "table": "filter", "chain": "x", "expr": expr}}


NET = {"prefix": {"addr": "192.0.2.0", "len": 24}}


@pytest.mark.parametrize("kind", ["nfqueue", "ebpf", "socket"])
@pytest.mark.parametrize(
    ("listed", "not_from", "warned"),
    [
        ([dropping("192.0.2.7")], [], True),
        ([dropping("192.0.2.7")], ["192.0.2.0/24"], False),
        ([dropping("192.0.2.7")], ["192.0.3.0/24"], True),
        ([dropping({"set": [NET, "10.1.1.1"]})], ["192.0.2.0/24"], True),
        ([dropping({"set": [NET, "10.1.1.1"]})], ["192.0.2.0/24", "10.0.0.0/8"], False),
        ([dropping("2001:db8::1", field="ip6")], [], True),
        ([dropping("@blocked")], ["192.0.2.0/24"], True),
        ([dropping("10.0.0.0", op="!=")], ["192.0.2.0/24"], True),
        ([dropping("192.0.2.7", match({"payload": {"protocol": "tcp", "field": "dport"}}, 22))], [], False),
        ([dropping("192.0.2.7", match(DPORT, 53))], [], False),
        ([dropping("192.0.2.7", match(DPORT, PORT))], [], True),
        ([dropping("192.0.2.7", match(DPORT, {"set": [53, {"range": [5000, 5300]}]}))], [], False),
        ([dropping("192.0.2.7", match(DPORT, {"set": [53, {"range": [5000, 5400]}]}))], [], True),
        ([dropping("192.0.2.7", match(DPORT, "@ports"))], [], True),
    ],
)
def test_rules_by_source_that_the_fast_paths_pass_by(tmp_path, monkeypatch, kind, listed, not_from, warned):
    monkeypatch.setattr(firewall.ruleset, "find_nft", lambda: "/usr/sbin/nft")
    monkeypatch.setattr(firewall.shutil, "which", lambda name: None)
    monkeypatch.setattr(
        firewall.ruleset,
        "run_nft",
        lambda nft, arguments: json.dumps({"nftables": [chain("input", "accept"), *listed]}),
    )
    findings = found(firewall.firewall, subject(tmp_path, kind=kind, not_from=not_from))
    assert states(findings) == (["warning"] if warned and kind != "socket" else ["ok"])


def test_rules_that_only_root_may_list(tmp_path, monkeypatch):
    monkeypatch.setattr(firewall.ruleset, "find_nft", lambda: "/usr/sbin/nft")
    assert states(found(firewall.firewall, subject(tmp_path, is_root=False))) == ["warning"]


# --- The host


def test_a_port_that_somebody_has(tmp_path):
    stopped = subject(tmp_path, status=None, stats=None, table=None)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        address = Address.of("127.0.0.1", sock.getsockname()[1])
        taken = replace(stopped, settings=replace(stopped.settings, listen=(address,)))
        (finding,) = found(host.ports, taken)
        assert finding.state == "failure"
        assert "has it" in finding.what
    assert states(found(host.ports, taken)) == ["ok"]


def test_queue_numbers_of_others(tmp_path, monkeypatch):
    stopped = subject(tmp_path, status=None, is_root=False)
    monkeypatch.setattr(host, "bound_queues", lambda: {PORT: {}})
    assert states(found(host.queue_numbers, stopped)) == ["failure"]
    monkeypatch.setattr(host, "bound_queues", lambda: {1: {}})
    assert found(host.queue_numbers, stopped) == []


@pytest.mark.parametrize(("limit", "state"), [(100, "warning"), (1024, "ok")])
def test_file_limits(tmp_path, monkeypatch, limit, state):
    monkeypatch.setattr(host.resource, "getrlimit", lambda which: (limit, limit))
    assert states(found(host.files, subject(tmp_path, status=None))) == [state]


# --- All of it


def test_every_check_runs_on_a_host_of_which_nothing_is_known(tmp_path):
    nothing = subject(
        tmp_path, settings=None, config_error="none", status=None, stats=None, table=None, daemon_error="none",
        is_root=False, own=(), interfaces=(),
    )  # fmt: skip
    findings = list(examine(nothing))
    assert {each.check for each in findings} >= {"configuration", "daemon"}
    assert len(CHECKS) > 10


def test_against_a_real_node(tmp_path):
    node = DevNode(tmp_path / "n1", f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    try:
        ctl = Ctl(node.control, KDHT_CONFIG=str(tmp_path / "none.toml"))
        done = ctl("doctor", "--json")
        data = json.loads(done.stdout)
        assert (done.returncode, data["failures"]) == (0, 0), data
        lines = {(each["check"], each["state"]) for each in data["findings"]}
        assert {("configuration", "ok"), ("daemon", "ok"), ("port", "ok"), ("datapath", "ok")} <= lines
        assert b"mend:" in ctl("doctor").stdout
        assert all(
            each["state"] != "ok" for each in json.loads(ctl("doctor", "-q", "--json").stdout)["findings"]
        )
    finally:
        node.close()


def test_a_failure_is_its_exit_status(tmp_path):
    ctl = Ctl(tmp_path / "none.sock", KDHT_CONFIG=str(tmp_path / "none.toml"))
    done = ctl("doctor")
    assert done.returncode == 10
    assert b"failure" in done.stdout
    assert done.stderr == b""


# --- Which daemon it asks ----------------------------------------------------------------


def daemon_asked(config: Path, *arguments: str, **environment: str) -> str:
    """What doctor says of the daemon that it does not find."""
    kept = {name: value for name, value in os.environ.items() if name != "KDHT_SOCKET"}
    done = run([*KDHTCTL, "doctor", "--json", "--config", config, *arguments], env={**kept, **environment})
    return " ".join(each["what"] for each in json.loads(done.stdout)["findings"])


def test_the_control_socket_comes_from_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "kdhtd.toml"
    path.write_text(
        f'[node]\nlisten = ["127.0.0.1:{PORT}"]\ndata_dir = "{tmp_path}/data"\n'
        f'[[key]]\nsecret = "sixteen bytes or more"\n[control]\nsocket = "{tmp_path}/own.sock"\n'
    )
    path.chmod(0o600)
    assert f"{tmp_path}/own.sock" in daemon_asked(path)
    assert f"{tmp_path}/given.sock" in daemon_asked(path, "--socket", f"{tmp_path}/given.sock")
    assert f"{tmp_path}/named.sock" in daemon_asked(path, KDHT_SOCKET=f"{tmp_path}/named.sock")


def test_a_build_without_libsodium_is_warned_about(tmp_path, monkeypatch):
    (built,) = host.signatures(subject(tmp_path))
    assert (built.state, built.what) == ("ok", "built with libsodium")
    monkeypatch.delattr("kdht.wire._sodium")
    monkeypatch.setitem(sys.modules, "kdht.wire._sodium", None)
    (missing,) = host.signatures(subject(tmp_path))
    assert missing.state == "warning"
    assert "apt-get install libsodium-dev" in missing.mend


def test_a_rule_for_the_nodes_own_interface_counts(tmp_path, monkeypatch):
    listed = [chain("input"), rule(match({"meta": {"key": "iifname"}}, "lan0"), match(DPORT, PORT))]
    monkeypatch.setattr(firewall.ruleset, "find_nft", lambda: "/usr/sbin/nft")
    monkeypatch.setattr(firewall.shutil, "which", lambda name: None)
    monkeypatch.setattr(firewall.ruleset, "run_nft", lambda nft, arguments: json.dumps({"nftables": listed}))
    node = replace(subject(tmp_path), interfaces=("lan0",))
    assert states(found(firewall.firewall, node)) == ["ok"]
