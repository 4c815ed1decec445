"""Finds foreign rules that would drop our packets: chains of nftables (iptables' too) with a policy of drop.

Re-addressed packets pass the forward hook, with a mark. Packets for this node pass the input hook. A
chain that drops by policy is all right if its table has a rule for us: a rule that accepts
everything, our mark, or our port.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdht.cli.doctor import sources
from kdht.cli.doctor.findings import Check, Finding, State, Subject
from kdht.datapath.host import children, ruleset
from kdht.datapath.host.ruleset import MARK
from kdht.errors import DatapathError

LEGACY = {"ip": Path("/proc/net/ip_tables_names"), "ip6": Path("/proc/net/ip6_tables_names")}
Rule = Mapping[str, Any]


def firewall(subject: Subject) -> Iterator[Finding]:
    """Every base chain that may stand in the way."""
    if ruleset.find_nft() is None:
        return
    if not subject.is_root:
        yield Finding("firewall", "warning", "only root may list the rules of others", "sudo kdhtctl doctor")
        return
    try:
        listed = json.loads(ruleset.run_nft("nft", ["-j", "list", "ruleset"]) or '{"nftables": []}')[
            "nftables"
        ]
    except DatapathError as error:
        yield Finding("firewall", "warning", str(error), "give CAP_NET_ADMIN")
        return
    except (ValueError, KeyError, TypeError):  # cut short, or of a version that writes otherwise
        yield Finding("firewall", "warning", "nft's list of rules cannot be read", "nft list ruleset")
        return
    found = [
        *_forward(subject, listed),
        *_input(subject, listed),
        *sources.by_source(subject, listed),
        *_legacy(subject),
    ]
    yield from found
    if not found:
        yield Finding("firewall", "ok", "no rule of others drops by policy what is ours")


def _forward(subject: Subject, listed: list[Rule]) -> Iterator[Finding]:
    """Only nfqueue's packets are forwarded by the kernel."""
    bad: State = "failure" if "nfqueue" in (subject.running_kind, subject.kind) else "warning"
    for chain in _dropping(subject, listed, "forward"):
        ours = [({"meta": {"key": "mark"}}, MARK), *_places(subject)]
        if not any(_accepts(rule, ours) for rule in _rules(listed, chain)):
            place = f"{chain['family']} {chain['table']} {chain['name']}"
            yield Finding("firewall", bad, f"chain {place} drops what is forwarded: our packets have mark {MARK:#x}",
                          f"nft insert rule {place} meta mark {MARK:#x} accept")  # fmt: skip


def _input(subject: Subject, listed: list[Rule]) -> Iterator[Finding]:
    port = subject.port
    if port is None:
        return
    for chain in _dropping(subject, listed, "input"):
        ours = [*_messages(port), *_places(subject)]
        if not any(_accepts(rule, ours) for rule in _rules(listed, chain)):
            place = f"{chain['family']} {chain['table']} {chain['name']}"
            yield Finding("firewall", "failure", f"chain {place} drops what comes in, UDP port {port} too",
                          f"nft insert rule {place} udp dport {port} accept")  # fmt: skip


def _legacy(subject: Subject) -> Iterator[Finding]:
    """The old iptables. nft does not list its rules."""
    for family, path in LEGACY.items():
        program = {"ip": "iptables-legacy", "ip6": "ip6tables-legacy"}[family]
        if not _has_filter(path) or shutil.which(program) is None:
            continue
        try:
            done = children.ran([program, "-S", "FORWARD"])
        except DatapathError as error:
            yield Finding("firewall", "warning", str(error), "look at its rules yourself")
            continue
        marked = f"{MARK:#x}" in done.stdout
        if done.stdout.startswith("-P FORWARD DROP") and not marked:
            yield Finding("firewall", subject.unless_needed("nfqueue"), f"{program} drops what is forwarded",
                          f"{program} -I FORWARD -m mark --mark {MARK:#x} -j ACCEPT")  # fmt: skip


def _has_filter(path: Path) -> bool:
    try:
        return "filter" in path.read_text().split()
    except OSError:
        # A kernel without iptables has no such file, and so no such rule.
        return False


def _dropping(subject: Subject, listed: list[Rule], hook: str) -> Iterator[Rule]:
    """Base chains of others on this hook, of a family that we use, with a policy of drop."""
    table = subject.settings.config.datapath.table if subject.settings else "kdht"
    ours = {table, f"{table}_guard"}
    families = {"inet"} | {"ip" if each.is_ipv4 else "ip6" for each in subject.own}
    for entry in listed:
        chain = entry.get("chain", {})
        theirs = chain.get("table") not in ours and chain.get("family") in families
        if theirs and chain.get("hook") == hook and chain.get("policy") == "drop":
            yield chain


def _rules(listed: list[Rule], chain: Rule) -> Iterator[Rule]:
    """All rules of the chain's table. Jumps are not followed; the rules of their targets count too."""
    for entry in listed:
        rule = entry.get("rule", {})
        if (rule.get("family"), rule.get("table")) == (chain["family"], chain["table"]):
            yield rule


def _accepts(rule: Rule, ours: list[tuple[Rule, object]]) -> bool:
    """Whether it accepts, and each of its matches compares one of these."""
    return any("accept" in each for each in rule.get("expr", [])) and all(
        any(_is_match(each, left, right) for left, right in ours) for each in _matches(rule)
    )


def _places(subject: Subject) -> list[tuple[Rule, object]]:
    """What all our packets have: their interfaces, and the first state of a connection."""
    keys = ("iifname", "oifname", "iif", "oif")
    interfaces = [({"meta": {"key": key}}, name) for key in keys for name in subject.interfaces]
    return [*interfaces, ({"ct": {"key": "state"}}, "new")]


def _messages(port: int) -> list[tuple[Rule, object]]:
    """What a match has to compare to fit messages for this port."""
    return [
        ({"payload": {"protocol": "udp", "field": "dport"}}, port),
        ({"payload": {"protocol": "th", "field": "dport"}}, port),
        ({"meta": {"key": "l4proto"}}, "udp"),
        ({"payload": {"protocol": "ip", "field": "protocol"}}, "udp"),
        ({"payload": {"protocol": "ip6", "field": "nexthdr"}}, "udp"),
    ]


def _matches(rule: Rule) -> list[Rule]:
    return [each["match"] for each in rule.get("expr", []) if "match" in each]


def _is_match(match: Rule, left: Rule, right: object) -> bool:
    """Whether it is `left == right`, or `left` in a range or set that has it."""
    if match.get("left") != left or match.get("op") not in ("==", "in"):
        return False
    return sources.holds(match.get("right"), right)


CHECKS: tuple[Check, ...] = (firewall,)
