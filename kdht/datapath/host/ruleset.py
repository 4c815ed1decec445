"""The nft ruleset: a table of our own that diverts our packets to the queues.

nft/kdht.nft is the ruleset; this module fills in its parameters, loads it in one nft
transaction and removes it in another. Nothing outside the table is read or changed. If the
kernel has no native `queue`, the one rule of chain to_queue is added through nft_compat
after the table. Until then packets go to the socket, so nothing is lost in between. All
errors are DatapathErrors that say what to do.
"""

import json
import os
import re
import shutil
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from pathlib import Path
from string import Template
from typing import Any, Literal, NamedTuple

from kdht.datapath.host import children, netlink
from kdht.datapath.host.netlink import Queue
from kdht.datapath.rates import NO_LIMITS, ClientRates
from kdht.datapath.senders import NOBODY_REFUSED, Network, Senders
from kdht.errors import DatapathError
from kdht.wire._shared import CROWD_FACTOR, MAGIC, PORT

MARK = 0x30D4
"""The mark of packets that the worker re-addressed. Outside the bits that Kubernetes (0xc000), Cilium (0xf00),
Tailscale (0xff0000) and Calico (0xffff0000) use by default; the same for all nodes of a host."""

QUEUE_CHAIN = "to_queue"
LEFT = "left"
"""The counter of re-addressed packets at the last place where rules may drop them."""
TRACED = 50
"""Packets a second that are traced while some get lost. Each is a dozen lines of nft's to read."""
NOT_ALLOWED = "not_allowed"
"""The counter of requests from addresses that may not send them."""
SYSTEM_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
REQUEST_ID = "@th,128,32"
"""The first half of a message's request ID, as nft finds it."""

_LEARNT = re.compile(
    r"(\tset (?:readers|costly|writers)[46] \{\n(?:\t\t(?!elements).*\n)*)\t\telements = \{[^}]*\}\n"
)
"""A listed set: the part before the elements that packets added, and these elements."""

RuleKind = Literal["native", "compat"]


class Guard(NamedTuple):
    """What the host refused before its sysctls were changed. The table goes on refusing it."""

    forward4: frozenset[str] = frozenset()
    """Interfaces whose IPv4 packets the host did not forward."""
    forward6: frozenset[str] = frozenset()
    forward6_all: bool = False
    """The host forwarded IPv6 from no interface, and now does from all."""
    martian4: frozenset[str] = frozenset()
    """Interfaces where accept_local was off."""
    reverse4: frozenset[str] = frozenset()
    """Interfaces where rp_filter was strict."""


@dataclass(frozen=True, kw_only=True)
class RulesetOptions:
    """The parameters of nft/kdht.nft."""

    interfaces: tuple[str, ...]
    queue: Queue
    table: str = "kdht"
    port: int = PORT
    mark: int = MARK
    rates: ClientRates = NO_LIMITS
    senders: Senders = NOBODY_REFUSED
    table_size: int = 65536
    guard: Guard = field(default_factory=Guard)
    nft: str = "nft"


def ruleset_path() -> Path:
    """nft/kdht.nft: in the checkout, or where the wheel put it. Raises DatapathError."""
    places = [
        Path(__file__).parents[3] / "nft/kdht.nft",
        Path(sysconfig.get_path("data")) / "share/kdht/nft/kdht.nft",
    ]
    for place in places:
        if place.is_file():
            return place
    raise DatapathError(f"the ruleset kdht.nft is missing; install kdht again (looked at {places[-1]})")


def find_nft(nft: str = "nft") -> str | None:
    """Where nft is. Debian has it in /usr/sbin, and only root's path names that."""
    found = shutil.which(nft)
    return found or shutil.which(nft, path=os.pathsep.join(SYSTEM_PROGRAMS))


def run_nft(nft: str, arguments: Iterable[str], script: str = "") -> str:
    """nft's output. Raises DatapathError with nft's own first line of complaint."""
    try:
        done = children.ran([find_nft(nft) or nft, *arguments], script)
    except DatapathError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise DatapathError(
                f'cannot find {nft}: install nftables, or choose the socket datapath (kind = "socket")'
            ) from None
        if isinstance(error.__cause__, PermissionError):
            raise DatapathError(f"may not run {nft}: it is not executable for this user") from None
        raise
    if done.returncode == 0:
        return done.stdout
    complaint = next((line for line in done.stderr.splitlines() if "rror" in line), done.stderr.strip())
    if "Operation not permitted" in done.stderr:
        raise DatapathError(
            "nftables needs root (CAP_NET_ADMIN): start kdhtd as root or choose the socket datapath"
        )
    raise DatapathError(f"nft refused the ruleset: {complaint}")


def probe_queue(nft: str = "nft") -> RuleKind | None:
    """How this kernel can divert packets to NFQUEUE. None: it cannot. Leaves nothing behind.

    "native" is tried with nft's check mode, which changes nothing; "compat" with a rule in a scratch table.
    Raises DatapathError for every other failure.
    """
    # A name of its own, so that two daemons that start together do not remove each other's.
    scratch = f"kdht_probe_{os.getpid()}"
    table = f"table inet {scratch} {{\nchain {QUEUE_CHAIN} {{\n%s\n}}\n}}\n"
    run_nft(nft, ["-c", "-f", "-"], table % "")
    try:
        run_nft(nft, ["-c", "-f", "-"], table % "queue num 0 bypass")
    except DatapathError:
        return "compat" if _probe_compat(nft, scratch, table % "") else None
    return "native"


def _probe_compat(nft: str, scratch: str, table: str) -> bool:
    run_nft(nft, ["-f", "-"], table)
    try:
        netlink.add_queue_rule(scratch, QUEUE_CHAIN, Queue(0, 1, False))
    except DatapathError:
        # The answer to the probe: this kernel takes no such rule.
        return False
    finally:
        run_nft(nft, ["delete", "table", "inet", scratch])
    return True


class Ruleset:
    """One table. `apply` and `remove` may be called again, also by another process."""

    def __init__(self, options: RulesetOptions) -> None:
        self.options = options

    def probe(self) -> RuleKind:
        """How packets will be diverted. Raises DatapathError if the kernel cannot."""
        kind = probe_queue(self.options.nft)
        if kind is None:
            raise DatapathError(
                "this kernel has no NFQUEUE for nftables (CONFIG_NFT_QUEUE, or CONFIG_NFT_COMPAT and "
                "CONFIG_NETFILTER_XT_TARGET_NFQUEUE): choose the socket datapath"
            )
        return kind

    def apply(self, kind: RuleKind | None = None) -> RuleKind:
        """Load the table in place of one of the same name. Returns how it diverts packets: `kind`, if it is known.

        Raises DatapathError; then there is no table.
        """
        kind = kind or self.probe()
        self._nft(["-f", "-"], self.text(kind))
        if kind == "compat":
            self._add_queue_rule()
        return kind

    @property
    def fixed_sets(self) -> list[str]:
        """The sets whose elements are given by the options, not learnt from packets."""
        return ["interfaces", *_guard_sets(self.options.guard)]

    def divert_only(self, marker: int) -> None:
        """Divert nothing but messages whose request IDs begin with these 32 bits, and have nft trace those.

        Raises DatapathError.
        """
        rule = f"insert rule inet {self.options.table} {QUEUE_CHAIN} {REQUEST_ID}"
        self._nft(["-f", "-"], f"{rule} {marker:#x} meta nftrace set 1\n{rule} != {marker:#x} accept\n")

    def trace(self) -> None:
        """Have nft trace some of the packets that go to the queue. Raises DatapathError."""
        rule = f"insert rule inet {self.options.table} {QUEUE_CHAIN}"
        self._nft(
            ["-f", "-"], f"{rule} limit rate {TRACED}/second burst {TRACED} packets meta nftrace set 1\n"
        )

    def remove_rules(self, handles: Iterable[int]) -> None:
        """Remove the rules with these handles from the queue's chain. Raises DatapathError."""
        rule = f"delete rule inet {self.options.table} {QUEUE_CHAIN} handle"
        self._nft(["-f", "-"], "".join(f"{rule} {handle}\n" for handle in handles))

    def end_diverting(self) -> None:
        """Packets go to the socket from now on; the guards stay. Raises DatapathError."""
        self._nft(["flush", "chain", "inet", self.options.table, QUEUE_CHAIN])

    def apply_guard(self) -> None:
        """Load the table for its guards alone: it diverts nothing. Raises DatapathError."""
        # Without a queue statement, so no packet is diverted.
        self._nft(["-f", "-"], self.text("compat"))

    def remove(self) -> None:
        """Remove the table if it is there. Raises DatapathError."""
        name = self.options.table
        # Made first if it is missing, because nft refuses to delete a missing table.
        self._nft(["-f", "-"], f"table inet {name} {{}}\ndelete table inet {name}\n")

    def present(self) -> bool:
        """Whether the table is loaded and diverts packets to a queue. Raises DatapathError."""
        return any("rule" in entry for entry in self._list("chain", self.options.table, QUEUE_CHAIN))

    def counters(self) -> dict[str, int]:
        """Packets by name of the counter. Empty if there is no table. Raises DatapathError."""
        entries = (
            entry.get("counter") for entry in self._list("counters", "table", "inet", self.options.table)
        )
        return {counter["name"]: counter["packets"] for counter in entries if counter}

    def listing(self) -> str | None:
        """The loaded table without its counts and without the sources that it has seen. None: not loaded.

        Raises DatapathError.
        """
        try:
            # -s: without the counts, which always differ.
            listed = self._nft(["-s", "list", "table", "inet", self.options.table])
        except DatapathError as error:
            if "No such file" in str(error):
                return None
            raise
        return _LEARNT.sub(r"\1", listed)

    def set_guard(self, guard: Guard) -> None:
        """Replace the guards in one transaction. Raises DatapathError."""
        name = self.options.table
        flushed = "".join(f"flush set inet {name} {each}\n" for each in _guard_sets(guard))
        # One transaction: there is no moment without guards.
        self._nft(["-f", "-"], flushed + self._elements(_guard_sets(guard)))

    def text(self, kind: RuleKind) -> str:
        """The whole ruleset in nft's language."""
        options = self.options
        elements = {"interfaces": _quoted(options.interfaces), **_guard_sets(options.guard)}
        return Template(ruleset_path().read_text()).substitute(self._parameters(kind)) + self._elements(
            elements
        )

    def _parameters(self, kind: RuleKind) -> dict[str, object]:
        options = self.options
        return {
            "table": options.table,
            "port": options.port,
            "magic": f"{MAGIC:#010x}",
            "mark": f"{options.mark:#x}",
            "table_size": options.table_size,
            "queue": _queue_statement(options.queue) if kind == "native" else "",
            "senders": "\n\t\t".join(_sender_rules(options.senders)),
            **_limit("reads", options.rates.reads),
            **_limit("costly", options.rates.costly),
            **_limit("writes", options.rates.writes),
        }

    def _elements(self, sets: dict[str, list[str]]) -> str:
        return "".join(
            f"add element inet {self.options.table} {name} {{ {', '.join(values)} }}\n"
            for name, values in sets.items()
            if values
        )

    def _add_queue_rule(self) -> None:
        try:
            netlink.add_queue_rule(self.options.table, QUEUE_CHAIN, self.options.queue)
        except DatapathError:
            self.remove()
            raise

    def _list(self, *what: str) -> list[dict[str, dict[str, Any]]]:
        kind, *rest = what
        try:
            listed = self._nft(["-j", "list", kind, *(["inet", *rest] if kind == "chain" else rest)])
        except DatapathError as error:
            if "No such file" in str(error):
                return []
            raise
        return list(json.loads(listed)["nftables"]) if listed else []

    def _nft(self, arguments: list[str], script: str = "") -> str:
        return run_nft(self.options.nft, arguments, script)


def _queue_statement(queue: Queue) -> str:
    numbers = str(queue.first) if queue.total == 1 else f"{queue.first}-{queue.last}"
    return f"queue num {numbers} bypass" + (",fanout" if queue.by_cpu else "")


def _limit(kind: str, rate: int) -> dict[str, object]:
    """The parameters of one limit. With a rate of 0 the chain stays in the table, unused."""
    # All addresses that the table does not know share one bucket: a forger has as many addresses as he likes.
    crowd = max(rate, 1) * CROWD_FACTOR
    return {
        f"{kind}_chain": f"limit_{kind}" if rate else QUEUE_CHAIN,
        f"{kind}_rate": max(rate, 1),
        f"{kind}_burst": max(rate, 1),
        f"{kind}_crowd": crowd,
        f"{kind}_crowd_burst": crowd,
    }


def _sender_rules(senders: Senders) -> Iterator[str]:
    """Rules that drop clients' requests from addresses that may not send them."""
    writes = "@th,104,8 { 2, 3, 7, 8 } "
    for which, allowed, refused in (
        ("", senders.allowed, senders.refused),
        (writes, senders.write_allowed, senders.write_refused),
    ):
        for version, address in ((4, "ip"), (6, "ip6")):
            drop = f"counter name {NOT_ALLOWED} drop"
            if allowed:
                inside = _anonymous_set(allowed, version)
                match = f"{address} saddr != {inside} " if inside else f"meta nfproto ipv{version} "
                yield f"{which}{match}{drop}"
            if inside := _anonymous_set(refused, version):
                yield f"{which}{address} saddr {inside} {drop}"


def _anonymous_set(networks: Sequence[Network], version: int) -> str:
    """The networks of one IP version; "" if there is none. nft refuses such a set with overlaps."""
    if version == 4:
        merged = [str(each) for each in collapse_addresses(n for n in networks if isinstance(n, IPv4Network))]
    else:
        merged = [str(each) for each in collapse_addresses(n for n in networks if isinstance(n, IPv6Network))]
    return "{ " + ", ".join(merged) + " }" if merged else ""


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in sorted(names)]


def _guard_sets(guard: Guard) -> dict[str, list[str]]:
    return {
        "guarded4": _quoted(guard.forward4),
        "guarded6": _quoted(guard.forward6),
        "guarded": ["ipv6"] if guard.forward6_all else [],
        "strict4": _quoted(guard.martian4),
        "reverse4": _quoted(guard.reverse4),
    }
