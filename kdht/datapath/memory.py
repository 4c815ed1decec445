"""A network in memory with a clock of its own: lossy, seeded, the same every time.

Contract: all that happens is one queue of events, ordered by virtual time and then by when
they were put in, and every chance comes from one seeded generator: the same seed and the
same calls give the same run. A MemoryTransport makes the same verdict per datagram as the
other datapaths, from the same core, so messages really go hop by hop. A delay that is a
range reorders. Nothing here is thread-safe, and nothing here reads a real clock.
An exception that leaves a receiver or a callback leaves `step` and `run` too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple, Protocol

from kdht._routing import Core
from kdht.datapath.base import Datagram, Handlers, Outgoing, Receiver
from kdht.errors import DatapathError
from kdht.times import SteadyTime
from kdht.wire import NO_IP, OFFSET, Address
from kdht.wire._shared import Flag, Op, Reason, Status, Verdict

START = 1_700_000_000.0
"""Where the virtual clock begins: a plausible Unix time, seconds."""

BATCH = 32
"""Datagrams that a transport takes at once, as the socket's loop does."""
AWAY = 0.5
TOO_OLD = 1.0
"""Seconds, as in `_socket.pyx`: who was away so long hears of it; a request that waited so long is dropped."""
MAX_WAITING = 4096
"""Datagrams in the buffer of a node that is paused."""
TICK = 0.005
"""The least seconds until an alarm, as in the daemon."""

_AGES = frozenset(
    {
        Op.PUT,
        Op.DELETE,
        Op.ANNOUNCE,
        Op.WITHDRAW,
        Op.PROMISE,
        Op.GET,
        Op.QUORUM_GET,
        Op.WATCH,
        Op.MEMBERS,
        Op.FETCH,
    }
)
_SENT_ON = frozenset({Verdict.FORWARD, Verdict.RELAY})


class Received(NamedTuple):
    """What a client got, and when, in virtual seconds."""

    data: bytes
    source: Address
    target: Address
    time: SteadyTime


class Event(NamedTuple):
    """One thing that befell a datagram, for traces."""

    time: SteadyTime
    what: str
    """A key of `MemoryNetwork.counts`."""
    source: Address
    target: Address
    data: bytes


class MemoryEndpoint(Protocol):
    """Where datagrams to an address arrive."""

    def deliver(self, data: bytes, source: Address, target: Address) -> None: ...


class MemoryNetwork:
    """All links, all endpoints and the clock.

    `loss` and `duplicate` are probabilities per datagram and leg, `delay` is the least and
    the most seconds that one leg takes. `observer` sees every event, if there is one.
    """

    def __init__(
        self,
        *,
        seed: int,
        loss: float = 0.0,
        delay: tuple[float, float] = (0.001, 0.010),
        duplicate: float = 0.0,
        start: float = START,
        observer: Callable[[Event], None] | None = None,
    ) -> None:
        self.now = SteadyTime(start)
        self.loss = loss
        self.delay = delay
        self.duplicate = duplicate
        self.observer = observer
        self.counts = dict.fromkeys(("delivered", "lost", "cut", "duplicated", "nobody"), 0)
        self._random = Random(seed)
        self._endpoints: dict[Address, MemoryEndpoint] = {}
        self._side: dict[Address, int] = {}
        self._link_loss: dict[tuple[Address, Address], float] = {}
        self._queue: list[tuple[SteadyTime, int, Callable[..., None], tuple[object, ...]]] = []
        self._serial = 0

    def attach(
        self,
        core: Core,
        address: Address,
        receiver: Receiver,
        *,
        also: Sequence[Address] = (),
        lane: int = 0,
    ) -> "MemoryTransport":
        """A started transport at `address` (and `also`), for a node that keeps no records."""
        transport = MemoryTransport(self, core, (address, *also), lane=lane)
        transport.start(Handlers.without_records(receiver))
        return transport

    def client(self, address: Address) -> "MemoryClient":
        """An endpoint that is no node: it keeps what it gets."""
        client = MemoryClient(self, address)
        self.join(address, client)
        return client

    def join(self, address: Address, endpoint: MemoryEndpoint) -> None:
        """Deliver datagrams for `address` to `endpoint`. Raises DatapathError if it is taken."""
        if self._endpoints.setdefault(address, endpoint) is not endpoint:
            raise DatapathError(f"{address} is in use on this network: choose another address")

    def leave(self, address: Address, endpoint: MemoryEndpoint) -> None:
        """Lose all that `endpoint` would get at `address` from now on; not if another has the address."""
        if self._endpoints.get(address) is endpoint:
            del self._endpoints[address]

    def partition(self, *sides: Iterable[Address]) -> None:
        """Cut the network: datagrams between two sides are lost. Who is on no side reaches all."""
        self._side = {address: n for n, side in enumerate(sides) for address in side}

    def heal(self) -> None:
        """End the partition; losses of links stay."""
        self._side = {}

    def set_loss(self, source: Address, target: Address, loss: float) -> None:
        """The loss of one link in one direction, instead of the network's."""
        self._link_loss[source, target] = loss

    def forget_losses(self) -> None:
        """All links lose what the network loses."""
        self._link_loss.clear()

    def carry(self, data: bytes, source: Address, target: Address) -> None:
        """Put one datagram on its way: lost, delivered once or twice, later."""
        if self._side and self._is_cut(source, target):
            return self._note("cut", source, target, data)
        loss = self._link_loss.get((source, target), self.loss) if self._link_loss else self.loss
        if loss and self._random.random() < loss:
            return self._note("lost", source, target, data)
        if self.duplicate and self._random.random() < self.duplicate:
            self._note("duplicated", source, target, data)
            self._schedule(self._arrival_time(), self._arrive, (data, source, target))
        return self._schedule(self._arrival_time(), self._arrive, (data, source, target))

    def call_at(self, when: float, callback: Callable[..., None], *arguments: object) -> None:
        """Call back at virtual time `when`, or at once in the queue's order if that is past."""
        self._schedule(max(when, self.now), callback, arguments)

    def step(self) -> bool:
        """Let the next event happen; False if there is none."""
        if not self._queue:
            return False
        self.now, _, action, arguments = heappop(self._queue)
        action(*arguments)
        return True

    def run(self, until: float | None = None) -> None:
        """Let everything up to virtual time `until` happen; without it, until nothing is left."""
        queue, step = self._queue, self.step
        if until is None:
            while step():
                pass
            return
        while queue and queue[0][0] <= until:
            step()
        self.now = SteadyTime(max(self.now, until))

    def run_while(self, condition: Callable[[], bool], limit: float) -> bool:
        """Run while `condition()` holds, at most `limit` virtual seconds; whether it ended in time."""
        end = self.now + limit
        while condition():
            if not self._queue or self._queue[0][0] > end:
                self.now = SteadyTime(end)
                return False
            self.step()
        return True

    def _arrive(self, data: bytes, source: Address, target: Address) -> None:
        endpoint = self._endpoints.get(target)
        self._note("delivered" if endpoint else "nobody", source, target, data)
        if endpoint:
            endpoint.deliver(data, source, target)

    def _is_cut(self, source: Address, target: Address) -> bool:
        here, there = self._side.get(source), self._side.get(target)
        return here is not None and there is not None and here != there

    def _arrival_time(self) -> float:
        least, most = self.delay
        return self.now + least + (most - least) * self._random.random()

    def _schedule(self, when: float, action: Callable[..., None], arguments: tuple[object, ...]) -> None:
        self._serial += 1
        heappush(self._queue, (SteadyTime(when), self._serial, action, arguments))

    def _note(self, what: str, source: Address, target: Address, data: bytes) -> None:
        self.counts[what] += 1
        if self.observer:
            self.observer(Event(self.now, what, source, target, data))


class MemoryTransport:
    """One node's place on a MemoryNetwork. `stop` loses what is still on its way to it.

    `skew`: how many seconds the node's clock is ahead of the network's. `call_at` has alarms called back; without it,
    the network does.
    `pause`: the process is stopped, so what arrives waits in the socket; `resume` takes it, in batches, and drops what is
    too old.
    """

    name = "memory"

    def __init__(
        self,
        network: MemoryNetwork,
        core: Core,
        addresses: Sequence[Address],
        *,
        lane: int = 0,
        skew: float = 0.0,
        call_at: Callable[..., None] | None = None,
    ) -> None:
        self.addresses = tuple(addresses)
        self._network = network
        self._core = core
        self._lane = lane
        self._skew = skew
        self._call_at = call_at or network.call_at
        self._next_alarm: float | None = None
        self._paused_at = SteadyTime(0.0)
        self._running = False
        self._waiting: list[_Arrival] | None = None
        self._received = self._sent = 0

    def start(self, handlers: Handlers) -> None:
        """Take the addresses. Raises DatapathError if one is taken; then none is."""
        if self._running:
            return
        self._handlers = handlers
        self._running = True
        try:
            for address in self.addresses:
                self._network.join(address, self)
        except DatapathError:
            self.stop()
            raise

    def stop(self) -> None:
        for address in self.addresses if self._running else ():
            self._network.leave(address, self)
        self._running = False

    def status(self) -> Mapping[str, object]:
        return {
            "state": "up" if self._running else "down",
            "why": "" if self._running else "not started",
            "addresses": [str(address) for address in self.addresses],
            "received": self._received,
            "sent": self._sent,
        }

    def send(self, batch: Iterable[Outgoing]) -> int:
        """Put all on their way; nothing is sent while stopped."""
        before = self._sent
        for data, target, source in batch if self._running else ():
            self._send(bytes(data), source or self._usual(target), target)
        return self._sent - before

    def check_reads(self, wanted: bool) -> None:
        """No-op: every GET goes to `Handlers.receive`."""

    def call_in(self, seconds: float) -> None:
        """As Transport.call_in."""
        when = self._network.now + max(seconds, TICK)
        if self._running and (self._next_alarm is None or when < self._next_alarm):
            self._next_alarm = when
            self._call_at(when, self._ring, when)

    def _ring(self, when: float) -> None:
        if when != self._next_alarm:
            return  # an earlier one came in its place
        self._next_alarm = None
        if self._running:
            seconds = self._handlers.time()
            if seconds is not None:
                self.call_in(seconds)

    def pause(self) -> None:
        """Take nothing, and lose nothing that fits the socket's buffer."""
        if self._waiting is None:
            self._waiting = []
            self._paused_at = self._network.now

    def resume(self) -> None:
        """Take what waited."""
        waiting, self._waiting = self._waiting or [], None
        if self._network.now - self._paused_at >= AWAY:
            self._handlers.away()
        for start in range(0, len(waiting), BATCH):
            taken = [self._take(*each) for each in waiting[start : start + BATCH]]
            local = [datagram for datagram in taken if datagram is not None]
            if local:
                self._handlers.receive(local)

    def deliver(self, data: bytes, source: Address, target: Address) -> None:
        """The verdict on one datagram, and what follows from it: an unconfigured node loses it."""
        if self._waiting is not None:
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append(_Arrival(data, source, target, self._network.now))
            return
        datagram = self._take(data, source, target, self._network.now)
        if datagram is not None:
            self._handlers.receive([datagram])

    def _take(self, data: bytes, source: Address, target: Address, arrived: SteadyTime) -> Datagram | None:
        """What is this node's own; the rest is sent on, or dropped."""
        self._received += 1
        message = bytearray(data)
        now = int(self._network.now + self._skew)
        # Here nobody can forge a source, so an own address is this host's.
        outcome = self._core.decide_message(message, source, target, now, self._lane, inside=True)
        if outcome.reason is Reason.NOT_READY:
            return None
        if outcome.verdict is not Verdict.RELAY and self._is_late(data, arrived):
            return None
        if outcome.reason is Reason.NEEDS_COOKIE:
            self._refuse(Datagram(data, source, target, outcome.reason, 0), now)
            return None
        if outcome.verdict is Verdict.LOCAL:
            return Datagram(data, source, target, outcome.reason, outcome.max_reply)
        if outcome.verdict in _SENT_ON and outcome.target is not None:
            chosen = outcome.source
            usual = chosen is None or chosen.ip == NO_IP
            self._send(bytes(message), self._usual(outcome.target) if usual else chosen, outcome.target)
        return None

    def _refuse(self, request: Datagram, now: int) -> None:
        """Send the cookie that the request lacks."""
        data, target, source = self._core.reply(request, Status.COOKIE_NEEDED, b"", now)
        self._send(data, source or self._usual(target), target)

    def _is_late(self, data: bytes, arrived: SteadyTime) -> bool:
        if self._network.now - arrived <= TOO_OLD or data[OFFSET["flags"]] & Flag.REPLY:
            return False
        return data[OFFSET["op"]] in _AGES

    def _send(self, data: bytes, source: Address | None, target: Address) -> None:
        if source is not None:
            self._sent += 1
            self._network.carry(data, source, target)

    def _usual(self, target: Address) -> Address | None:
        """The first own address of the target's family."""
        return next((own for own in self.addresses if own.is_ipv4 == target.is_ipv4), None)


class _Arrival(NamedTuple):
    """What waits in the socket of a paused node, and since when."""

    data: bytes
    source: Address
    target: Address
    arrived: SteadyTime


class MemoryClient:
    """An endpoint that is no node: sends what it is told, keeps what comes."""

    def __init__(self, network: MemoryNetwork, address: Address) -> None:
        self.address = address
        self.inbox: list[Received] = []
        self._network = network

    def send(self, data: bytes, target: Address) -> None:
        self._network.carry(bytes(data), self.address, target)

    def take(self) -> list[Received]:
        """What came since the last call."""
        taken, self.inbox = self.inbox, []
        return taken

    def deliver(self, data: bytes, source: Address, target: Address) -> None:
        self.inbox.append(Received(data, source, target, self._network.now))
