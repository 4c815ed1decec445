"""The state that the parts of one node share, and the few rules that all of them need."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random

from kdht.faults import Faults
from kdht.node._timers import Timers
from kdht.node.events import Event
from kdht.node.messages import UNKNOWN_ID, Reply
from kdht.node.options import Options
from kdht.node.readiness import LEAVING, Readiness
from kdht.node.rpc import Done, Rpc, Rpcs
from kdht.node.table import Table
from kdht.times import SteadyTime
from kdht.wire import NO_IP, Address, Contact
from kdht.wire._shared import Op

MAX_EVENTS = 4096
"""At most so many events wait to be taken; older ones are lost."""

COUNTERS = (
    "requests_sent", "repeats_sent", "replies_sent", "requests", "replies", "timeouts",
    "not_control", "not_own_address", "wrong_client", "own_id", "unmatched", "wrong_address", "wrong_id",
    "unusable_contact", "pending_full", "verifying_full", "lookups_full", "reply_rate",
    "demoted", "unreachable", "unreachable_ignored", "suspects", "suspect_unknown", "suspect_rate", "gossip_spared",
    "notices_sent", "notices_full", "left", "left_stale", "leaving", "newcomers", "aside", "other_version",
    "meetings", "faults",
)  # fmt: skip
"""The counters of a node, beside the reasons of BadPacket."""

_MULTICAST_4 = 224
_MULTICAST_6 = 0xFF


class NodeContext:
    """The table, timers, requests and counters of one node. `own`: its addresses. `transmit` and `missed`: as in Rpcs."""

    def __init__(
        self,
        contact: Contact,
        own: Sequence[Address],
        table: Table,
        options: Options,
        rng: Random,
        *,
        transmit: Callable[[Rpc, SteadyTime], None],
        missed: Callable[[Rpc, SteadyTime], None],
    ) -> None:
        self.contact = contact
        self.id = contact.id
        self.own = frozenset(own)
        self.table = table
        self.options = options
        self.rng = rng
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self.faults = Faults(self.counters)
        self.timers = Timers(self.faults)
        # Bounded, should the daemon's loop stand still.
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.readiness = Readiness(self.events)
        self.unix_offset = 0.0
        """Steady time plus this is Unix time."""
        self.rpcs = Rpcs(options, rng, self.timers, self.counters, transmit, missed)
        # Reversed, so that the first address of each IP version is the one that stays.
        self._source = {address.is_ipv4: address for address in reversed(own)}

    def source(self, target: Address) -> Address | None:
        """The own address of the target's IP version, to send from. None if there is none."""
        return self._source.get(target.is_ipv4)

    def jittered(self, seconds: float, jitter: float | None = None) -> float:
        """The interval, varied at random so that nodes do not act in step. `jitter` is a fraction."""
        if jitter is None:
            jitter = self.options.jitter
        return seconds * self.rng.uniform(1 - jitter, 1 + jitter)

    def ask(
        self,
        op: Op,
        key: bytes,
        address: Address,
        id: bytes | None,
        done: Done,
        now: SteadyTime,
        tries: int = 0,
        body: bytes = b"",
    ) -> bool:
        """Start a request. If too many wait, returns False and never calls `done`. `tries` 0: the usual number.

        `body` follows this node's ID.
        """
        options = self.options
        entry = self.table.at(address)
        timeout = options.first_timeout
        # A known contact has a measured round trip. A stranger may be far away.
        if entry is not None:
            timeout = entry.timeout(timeout, options.min_timeout, options.max_timeout)
        longest = options.max_timeout
        rpc = Rpc(
            op,
            key,
            address,
            id,
            done,
            tries=tries or options.tries,
            timeout=timeout,
            longest=longest,
            body=body,
        )
        return self.rpcs.start(rpc, now)

    def ping(
        self,
        address: Address,
        id: bytes | None,
        done: Done,
        now: SteadyTime,
        tries: int = 0,
        body: bytes = b"",
    ) -> bool:
        """Send a PING, like `ask`."""
        return self.ask(Op.PING, id or UNKNOWN_ID, address, id, done, now, tries, body)

    @property
    def leaving(self) -> bool:
        """Whether this node is leaving for good."""
        return LEAVING in self.readiness.missing

    def usable(self, contact: Contact) -> bool:
        """Whether this node could talk to an untrusted contact: it is another node, with an IP version of this one."""
        return contact.is_ipv4 in self._source and self._is_node(contact)

    def is_of_other_version(self, contact: Contact) -> bool:
        """Whether this node cannot talk to an untrusted contact because of its IP version alone."""
        # The rare case first: each answer of a lookup names twenty contacts, nearly all of them of a usable version.
        return contact.is_ipv4 not in self._source and self._is_node(contact)

    def _is_node(self, contact: Contact) -> bool:
        """Whether this is another node's ID, with a host address and a port."""
        ip, port = contact.ip, contact.port
        address = Address(ip, port)
        # Untrusted: a ping to a multicast or broadcast address would be answered by many.
        is_host = 0 < ip[12] < _MULTICAST_4 if address.is_ipv4 else ip[0] != _MULTICAST_6 and ip != NO_IP
        is_other = contact.id not in (self.id, UNKNOWN_ID) and address not in self.own
        return is_host and port != 0 and is_other


def leave_to_table(rpc: Rpc, reply: Reply | None, now: SteadyTime) -> None:
    """The `done` of requests made for the table alone, which takes every matched reply anyway."""
