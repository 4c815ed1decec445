"""Passes each message that ends at this node to the part that it is for.

Contract: runs on the transport's thread, and waits for nothing. The clock that it is given tells Unix seconds.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from kdht.datapath.base import Datagram
from kdht.node.observer import Observer
from kdht.node.reflector import Reflector
from kdht.node.replicas.coordinator import OPS, Coordinator
from kdht.node.service import Service
from kdht.times import UnixTime
from kdht.wire import OFFSET, Address
from kdht.wire._shared import Op, Reason

_OP = OFFSET["op"]


class Sorted(NamedTuple):
    """One batch, each part in its order."""

    routed: list[Datagram]
    """Requests: the service's."""
    replicas: list[Datagram]
    """STORE, FETCH and PROMISE, requests and replies: the coordinator's."""
    reflect: list[Datagram]
    """REFLECT: the reflector's."""
    control: list[Datagram]
    """All others: the node's."""


def by_receiver(batch: Iterable[Datagram]) -> Sorted:
    """Sort a batch of local messages."""
    found = Sorted([], [], [], [])
    for datagram in batch:
        if datagram.reason is not Reason.CONTROL:
            found.routed.append(datagram)
        elif datagram.data[_OP] in OPS:
            found.replicas.append(datagram)
        elif datagram.data[_OP] == Op.REFLECT:
            found.reflect.append(datagram)
        else:
            found.control.append(datagram)
    return found


class NodeInput(Protocol):
    """What reaches the Node from other threads. Thread-safe; waits for nothing."""

    def control(self, batch: list[Datagram]) -> None:
        """Control messages for the node."""

    def unreachable(self, address: Address) -> None:
        """ICMP proved that nobody listens there."""

    def silent(self, address: Address) -> None:
        """A request that is no control message of the node's had no answer in time."""


class Dispatcher:
    """One node's."""

    def __init__(
        self,
        *,
        service: Service,
        coordinator: Coordinator,
        reflector: Reflector,
        node: NodeInput,
        observer: Observer,
        clock: Callable[[], UnixTime],
    ) -> None:
        self._service = service
        self._coordinator = coordinator
        self._reflector = reflector
        self._node = node
        self._observer = observer
        self._clock = clock

    def receive(self, batch: list[Datagram]) -> None:
        """A batch of local messages."""
        routed, replicas, reflect, control = by_receiver(batch)
        # First: control messages only enter a queue here, and a probe must not wait for reads of the disk.
        if control:
            self._node.control(control)
        # Before the clients' requests: other nodes wait for these answers with their clients.
        if replicas:
            self._coordinator.receive(replicas, self._clock())
        if reflect:
            self._reflector.receive(reflect, self._clock())
        if routed:
            begun = self._observer.begin()
            self._observer.at_once(self._service.handle(routed, self._clock()), begun)

    def unreachable(self, address: Address, request_id: int | None) -> None:
        """As Handlers.unreachable. What proves nothing causes a ping at most."""
        if request_id is None:
            self._node.silent(address)
            return
        self._coordinator.unreachable(address, request_id, self._clock())
        self._node.unreachable(address)

    def tick(self) -> float | None:
        """As Coordinator.tick."""
        return self._coordinator.tick(self._clock())
