"""One request of the client library under the virtual clock: its tries, time-outs and retries as they are."""

import math
from collections.abc import Callable, Sequence
from random import Random

from kdht.client._calls import Call
from kdht.client._exchange import Exchange
from kdht.client._session import Session
from kdht.datapath.memory import MemoryNetwork
from kdht.wire import Address

Done = Callable[[Exchange, float], None]
"""The end of a request: with its `answer` or its `error`, and how many seconds it took."""


class VirtualRequest:
    """Asks through `entries`, from an `address` that is nobody else's until `done` was called."""

    def __init__(
        self,
        network: MemoryNetwork,
        address: Address,
        entries: Sequence[Address],
        call: Call,
        done: Done,
        rng: Random,
        *,
        timeout: float = 5.0,
        attempts: int = 8,
    ) -> None:
        self._network = network
        self._address = address
        self._entries = list(entries)
        self._done = done
        self._begun = network.now
        self._armed = math.inf
        self._session = Session(
            len(self._entries),
            timeout=timeout,
            attempts=attempts,
            rng=rng,
            unix_us=lambda: int(network.now * 1_000_000),
        )
        network.join(address, self)
        self._session.start(call, network.now, self._ended)
        self._go_on()

    def deliver(self, data: bytes, source: Address, target: Address) -> None:
        if source in self._entries:
            self._session.receive(self._entries.index(source), data, self._network.now)
            self._go_on()

    def _ended(self, exchange: Exchange, now: float) -> None:
        self._network.leave(self._address, self)
        self._done(exchange, now - self._begun)

    def _go_on(self) -> None:
        for send in self._session.outbox:
            self._network.carry(send.data, self._address, self._entries[send.node])
        self._session.outbox.clear()
        wake = self._session.next_wake()
        if wake is not None and wake < self._armed:
            self._armed = wake
            self._network.call_at(wake, self._wake, wake)

    def _wake(self, due: float) -> None:
        if due != self._armed:
            return
        self._armed = math.inf
        self._session.wake(self._network.now)
        self._go_on()
