"""Finds rules of others that choose by the sender's address and do not reach the fast paths.

What nfqueue re-addresses passes no input hook, and what XDP answers or sends on passes no hook at all. So whom an
input rule keeps from the socket still reads and writes by the other datapaths. The lists of [access] hold for all.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

from kdht.cli.doctor.findings import Finding, Subject
from kdht.datapath.senders import Network, is_in

Rule = Mapping[str, Any]
SADDR = (
    {"payload": {"protocol": "ip", "field": "saddr"}},
    {"payload": {"protocol": "ip6", "field": "saddr"}},
)
PASSED_BY = {"nfqueue": ("input",), "ebpf": ("input", "prerouting"), "auto": ("input",)}
"""The hooks that a datapath's packets do not meet."""


def by_source(subject: Subject, listed: list[Rule]) -> Iterator[Finding]:
    """Rules on such hooks that drop by source, and that `access.not_from` does not repeat; or that accept by source."""
    running = subject.running_kind if subject.status else subject.kind
    senders = subject.settings.senders if subject.settings else None
    for rule in _rules_on(listed, PASSED_BY.get(running, ()), _own_tables(subject)):
        match = next(
            (m["match"] for m in rule["expr"] if "match" in m and m["match"].get("left") in SADDR), None
        )
        drops = any("drop" in each or "reject" in each for each in rule["expr"])
        accepts = any("accept" in each for each in rule["expr"])
        if match is None or not (drops or accepts) or not _may_be_ours(rule, subject.port):
            continue
        networks = _networks(match.get("right"))
        listed_too = senders is not None and (
            bool(senders.allowed)
            if accepts or match.get("op") == "!="
            else networks is not None and all(is_in(network, senders.refused) for network in networks)
        )
        if not listed_too:
            place = f"{rule['family']} {rule['table']} {rule['chain']}"
            field = "not_from" if drops and match.get("op") != "!=" else "from"
            yield Finding("firewall", "warning", f"chain {place} chooses by source address, and {running} passes it by",
                          f"repeat its addresses in access.{field}: that holds for all datapaths")  # fmt: skip


def _own_tables(subject: Subject) -> set[str]:
    table = subject.settings.config.datapath.table if subject.settings else "kdht"
    return {table, f"{table}_guard"}


def _rules_on(listed: list[Rule], hooks: tuple[str, ...], ours: set[str]) -> Iterator[Rule]:
    """The rules of tables of others with a chain on these hooks. Those of the chains that it jumps to count too."""
    chains = [entry["chain"] for entry in listed if "chain" in entry]
    tables = {(chain["family"], chain["table"]) for chain in chains if chain.get("hook") in hooks}
    # A table's rules on other hooks are no concern.
    others = {
        (c["family"], c["table"], c["name"]) for c in chains if c.get("hook") and c["hook"] not in hooks
    }
    for entry in listed:
        rule = entry.get("rule")
        if rule is None or rule["table"] in ours or (rule["family"], rule["table"]) not in tables:
            continue
        if (rule["family"], rule["table"], rule.get("chain")) not in others:
            yield {"expr": [], **rule}


def _may_be_ours(rule: Rule, port: int | None) -> bool:
    """Whether the rule concerns our port, as far as its simple matches say."""
    for each in rule["expr"]:
        match = each.get("match", {})
        payload = match.get("left", {}).get("payload", {}) if isinstance(match.get("left"), dict) else {}
        if payload.get("protocol") in ("tcp", "icmp", "icmpv6", "sctp"):
            return False
        if payload.get("field") == "dport" and _numbers(match.get("right")):
            inside = holds(match["right"], port)
            if inside == (match.get("op") == "!="):
                return False
    return True


def holds(right: object, value: object) -> bool:
    """Whether the right side of a match is this value, or a range or anonymous set that has it."""
    if not isinstance(right, dict):
        return right == value
    if isinstance(found := right.get("set"), list):
        return any(holds(each, value) for each in found)
    ends = right.get("range")
    return (
        isinstance(value, int)
        and isinstance(ends, list)
        and len(ends) == 2
        and all(isinstance(end, int) for end in ends)
        and ends[0] <= value <= ends[1]
    )


def _numbers(right: object) -> bool:
    """Whether it is a number, or a range or anonymous set: no named set, whose elements are elsewhere."""
    return isinstance(right, int) or (isinstance(right, dict) and bool({"set", "range"} & right.keys()))


def _networks(right: object) -> list[Network] | None:
    """The networks that a match names. None: a named set, a range, or what nft may say tomorrow."""
    if isinstance(right, dict) and isinstance(right.get("set"), list):
        found = [_networks(each) for each in right["set"]]
        return None if None in found else [network for each in found if each for network in each]
    with suppress(ValueError, KeyError, TypeError):
        if isinstance(right, dict):
            return [ip_network(f"{right['prefix']['addr']}/{right['prefix']['len']}")]
        return [ip_network(right)]  # type: ignore[arg-type]
    return None
