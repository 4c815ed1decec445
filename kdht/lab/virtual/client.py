"""A client under the virtual clock: the library's own operations, tries, time-outs and retries, without its sockets."""

import math
from collections.abc import Callable, Generator, Sequence
from random import Random
from typing import Any

from kdht.client._calls import Answer, Call
from kdht.client._exchange import Exchange
from kdht.client._session import Session
from kdht.client._steps import Steps
from kdht.datapath.memory import MemoryNetwork
from kdht.errors import KdhtError
from kdht.wire import Address

Done = Callable[[Exchange, float], None]
"""The end of a request: with its `answer` or its `error`, and how many seconds it took."""

Ended = Callable[[Any, KdhtError | None], None]
"""The end of an operation: its result or its exception."""


class VirtualClient:
    """Asks through `entries`, from its own `address`. Its clock is `skew` seconds ahead. `spread`: reads go to any replica."""

    def __init__(
        self,
        network: MemoryNetwork,
        address: Address,
        entries: Sequence[Address],
        rng: Random,
        *,
        timeout: float = 5.0,
        attempts: int = 8,
        skew: float = 0.0,
        spread: bool = False,
    ) -> None:
        self.address = address
        self._network = network
        self._entries = {entry: node for node, entry in enumerate(entries)}
        self._targets = list(entries)
        self._skew = skew
        self._armed = math.inf
        self._session = Session(
            len(self._targets),
            timeout=timeout,
            attempts=attempts,
            rng=rng,
            unix_us=lambda: int(self.now * 1_000_000),
            spread=spread,
        )
        network.join(address, self)

    @property
    def now(self) -> float:
        return self._network.now + self._skew

    def run(self, steps: Steps[Any], ended: Ended) -> None:
        """Run an operation of the library, one request at a time."""
        self._next(steps, steps.send, None, ended)
        self._go_on()

    def ask(self, call: Call, done: Callable[[Exchange, float], None]) -> None:
        """One request."""
        self._session.start(call, self.now, done)
        self._go_on()

    def close(self) -> None:
        """Ask and hear nothing more."""
        self._network.leave(self.address, self)

    def deliver(self, data: bytes, source: Address, target: Address) -> None:
        node = self._entries.get(source)
        if node is not None:
            self._session.receive(node, data, self.now)
            self._go_on()

    def _next(
        self,
        steps: Generator[Any, Any, Any],
        go_on: Callable[[Any], Any],
        given: Answer | KdhtError | None,
        ended: Ended,
    ) -> None:
        try:
            call = go_on(given)
        except StopIteration as end:
            ended(end.value, None)
        except KdhtError as error:
            ended(None, error)
        else:
            self._session.start(call, self.now, lambda exchange, now: self._answered(steps, exchange, ended))

    def _answered(self, steps: Generator[Any, Any, Any], exchange: Exchange, ended: Ended) -> None:
        try:
            answer = exchange.result()
        except KdhtError as error:
            self._next(steps, steps.throw, error, ended)
        else:
            self._next(steps, steps.send, answer, ended)

    def _go_on(self) -> None:
        outbox = self._session.outbox
        for send in outbox:
            self._network.carry(send.data, self.address, self._targets[send.node])
        outbox.clear()
        wake = self._session.next_wake()
        if wake is not None and wake < self._armed:
            self._armed = wake
            self._network.call_at(wake - self._skew, self._wake, wake)

    def _wake(self, due: float) -> None:
        if due != self._armed:
            return
        self._armed = math.inf
        self._session.wake(max(self.now, due))
        self._go_on()


class VirtualRequest:
    """The first and only request of a new client, through `entries`, until `done` is called."""

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
        begun = network.now
        client = VirtualClient(network, address, entries, rng, timeout=timeout, attempts=attempts)

        def ended(exchange: Exchange, now: float) -> None:
            client.close()
            done(exchange, now - begun)

        client.ask(call, ended)
