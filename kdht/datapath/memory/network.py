"""A network in memory with a clock of its own: lossy, seeded, the same every time.

Contract: all that happens is one queue of events, ordered by virtual time and then by when
they were put in, and every chance comes from one seeded generator: the same seed and the
same calls give the same run. A delay that is a range reorders. Nothing here is thread-safe,
and nothing here reads a real clock.
An exception that leaves a receiver or a callback leaves `step` and `run` too.
"""

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from random import Random
from typing import NamedTuple, Protocol

from kdht.errors import DatapathError
from kdht.times import SteadyTime
from kdht.wire import Address

START = 1_700_000_000.0
"""Where the virtual clock begins: a plausible Unix time, seconds."""
LATE = 3.0
"""Seconds, at most, by which a late copy comes after the datagram."""


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
    the most seconds that one leg takes. `late` is the probability that a copy comes up to LATE seconds after the datagram.
    `observer` sees every event, if there is one.
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
        self.late = 0.0
        self.observer = observer
        self.counts = dict.fromkeys(("delivered", "lost", "cut", "duplicated", "nobody"), 0)
        self._random = Random(seed)
        self._endpoints: dict[Address, MemoryEndpoint] = {}
        self._side: dict[Address, int] = {}
        self._link_loss: dict[tuple[Address, Address], float] = {}
        self._queue: list[tuple[SteadyTime, int, Callable[..., None], tuple[object, ...]]] = []
        self._serial = 0

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
        if self.late and self._random.random() < self.late:
            self._note("duplicated", source, target, data)
            when = self._arrival_time() + LATE * self._random.random()
            self._schedule(when, self._arrive, (data, source, target))
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
