"""The blocking client, on sockets of its own."""

import os
import random
import selectors
import socket
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from kdht.client import _arguments as arguments
from kdht.client import _calls as calls
from kdht.client import _large as large
from kdht.client import _sockets as sockets
from kdht.client import _steps as steps
from kdht.client._arguments import Key, Source
from kdht.client._calls import Answer, Call, Hop
from kdht.client._datagram import ANY_NODE
from kdht.client._large import Progress
from kdht.client._manifest import UPLOAD_ID_LEN
from kdht.client._session import Session
from kdht.client._steps import WINDOW, Flight, Many, Steps
from kdht.errors import RequestError
from kdht.wire import Buffer, Record
from kdht.wire import _shared as shared

K = TypeVar("K", bound=Key)
T = TypeVar("T")


class Client:
    """Gets and puts values through any of `nodes` ("host:port", "[v6]:port" or a host alone).

    `timeout` is what one request may take in all, seconds, and `attempts` how often it is
    tried within it. `direct`: this host can be reached from every node, so reads are answered by the
    one that has the value and not by way of the one asked; where such answers do not come, the others
    do. `spread_reads`: reads go to any of a key's replicas, so that many clients of one hot key do not wait for its
    owner; they may see an older value than one that another client has seen. `learn`: the nodes that the cluster
    tells of are asked where none of `nodes` answers.

    Every method raises RequestTimeout without an answer (PortClosed at once, where no node listens), and RequestError
    when the cluster refuses. A write that ends in Unconfirmed or RequestTimeout may have been done or not; it is not done twice.
    Not thread-safe: each thread has its own client, and so has each process.
    """

    def __init__(
        self,
        nodes: str | Sequence[str],
        *,
        timeout: float = 5.0,
        attempts: int = 16,
        direct: bool = False,
        spread_reads: bool = False,
        learn: bool = True,
    ) -> None:
        """Raises ConfigError for nodes without an address and limits that cannot be, RequestError without a route to any."""
        timeout, attempts = arguments.limits(timeout, attempts)
        infos = sockets.resolve(sockets.node_list(nodes))
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._sockets = sockets.Sockets(
            infos, direct=direct, on_open=self._listen, on_close=self._selector.unregister
        )
        self._session = Session(
            len(self._sockets),
            timeout=timeout,
            attempts=attempts,
            rng=random.SystemRandom(),
            unix_us=sockets.unix_us,
            node_name=self._sockets.node_name,
            direct=direct,
            spread=spread_reads,
            on_learnt=self._sockets.place if learn else None,
        )

    def get(self, key: Key, *, max_value: int = shared.MAX_VALUE, quorum: bool = False) -> bytes:
        """The value, of at most `max_value` bytes; raises NotFound, ValueTooLarge.

        With `quorum` the newest of what a majority of the replicas has; raises Unconfirmed too.
        """
        return self.get_record(key, max_value=max_value, quorum=quorum).value

    def get_record(self, key: Key, *, max_value: int = shared.MAX_VALUE, quorum: bool = False) -> Record:
        """The value with its version and what is left of its TTL; raises as `get` does."""
        return calls.record(self._answer_to(calls.get(key, max_value, quorum=quorum)))

    def put(self, key: Key, value: Buffer, ttl: int | None = None, *, if_version: int | None = None) -> int:
        """Store a value of at most 1104 bytes, for `ttl` seconds or without end; its version.

        With `if_version` only where that version stands, 0 where there is no record (and a value of at most 1096
        bytes); raises Conflict else. Raises ValueTooLarge before anything is sent, and Unconfirmed for a write that may
        stand or not, or may have stood until it was overwritten.
        """
        return self._run(steps.put(key, value, ttl, if_version))

    def delete(self, key: Key, *, if_version: int | None = None) -> bool:
        """Delete the value; whether there was one. Raises Unconfirmed as `put` does.

        With `if_version` only where that version stands; raises Conflict else.
        """
        return self._run(steps.delete(key, if_version))

    def trace(self, key: Key, *, max_hops: int = shared.HOP_LIMIT) -> list[Hop]:
        """The nodes on the key's way, the entry node first; ends where one does not answer."""
        return self._run(steps.trace(key, max_hops))

    def get_many(self, keys: Iterable[K], *, window: int = WINDOW) -> dict[K, bytes]:
        """The values of those keys that have one, `window` requests at once.

        The first failure other than NotFound is raised, and what is under way is given up.
        """
        return self._run(steps.get_many(keys, window))

    def put_many(
        self, values: Mapping[K, Buffer], ttl: int | None = None, *, window: int = WINDOW
    ) -> dict[K, int]:
        """Store all values, `window` requests at once; their versions. The first failure is raised."""
        return self._run(steps.put_many(values.items(), ttl, window))

    def put_large(
        self, key: Key, source: Source, ttl: int | None = None, *, progress: Progress = large.no_progress
    ) -> int:
        """Store up to 64 MiB, from bytes or a binary file, in many requests; the version.

        Readers see the old value until the new one is complete. A key that had, or may have, a large
        value is written with this method and deleted with `delete_large`. Raises ValueTooLarge. Where it is
        interrupted it deletes what it has written, and then goes on with the interruption.
        """
        data = arguments.whole(source)
        return self._run(large.put(key, data, ttl, progress, time.time(), os.urandom(UPLOAD_ID_LEN)))

    def get_large(self, key: Key, *, progress: Progress = large.no_progress) -> bytes:
        """The value, large or not, all of it and checked; raises NotFound, RequestError."""
        return self._run(large.get(key, progress))

    def delete_large(self, key: Key) -> bool:
        """Delete a value, large or not, with all its chunks, those of unfinished uploads too."""
        return self._run(large.delete(key, time.time()))

    def watch(self, key: Key, *, lease: int = 30) -> Generator[Record | None, None, None]:
        """The record now and after every change, None where there is none; without end.

        Changes that follow quickly upon each other may be told as one, the last is always told. The
        watch ends when the generator is closed; raises RequestTimeout when no node answers any more. Between
        two `next` the client's other methods may be called; nodes keep it for `lease` seconds, at most 60.
        """
        call = calls.watch(key, lease)
        return self._watch(call, lease)

    def close(self) -> None:
        """Close the sockets; may be called again."""
        self._selector.close()
        self._sockets.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, operation: Steps[T]) -> T:
        """Do what an operation asks for, until it returns; it hears of an interruption too, and may have to clear away."""
        step: Callable[[], Call | Many] = partial(next, operation)
        try:
            while True:
                wanted = step()
                given: Answer | None = None
                try:
                    if isinstance(wanted, Many):
                        self._do_many(wanted)
                    else:
                        given = self._answer_to(wanted)
                except BaseException as error:
                    step = partial(operation.throw, error)
                else:
                    step = partial(operation.send, given)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            operation.close()

    def _answer_to(self, call: Call) -> Answer:
        self._check_open(call)
        exchange = self._session.start(call, time.monotonic())
        try:
            while not exchange.done:
                self._step()
        finally:
            self._session.forget(exchange)
        return exchange.result()

    def _do_many(self, many: Many) -> None:
        self._check_open("many requests")
        flight = Flight(self._session, many, lambda: None)
        try:
            flight.start(time.monotonic())
            while not flight.done:
                self._step()
        finally:
            flight.end()
        if flight.error is not None:
            raise flight.error

    def _watch(self, call: Call, lease: int) -> Generator[Record | None, None, None]:
        self._check_open(call)
        watch = self._session.watch(call, lease, time.monotonic())
        try:
            while True:
                while watch.events:
                    yield watch.events.popleft()
                if watch.error is not None:
                    raise watch.error
                self._check_open(call)
                self._step()
        finally:
            if os.getpid() == self._pid:
                self._session.forget(watch)
                watch.end(time.monotonic())
                self._flush()

    def _check_open(self, call: object) -> None:
        if not self._sockets:
            raise RequestError(f"{call}: the client is closed")
        sockets.check_process(self._pid)

    def _listen(self, node: int, sock: socket.socket) -> None:
        self._selector.register(sock, selectors.EVENT_READ, (node, sock))

    def _step(self) -> None:
        """Send what is to be sent, wait for datagrams or the next deadline, and let them count."""
        self._flush()
        wake = self._session.next_wake()
        for selected, _ in self._selector.select(max(wake - time.monotonic(), 0) if wake else None):
            self._read(*selected.data)
        now = time.monotonic()
        if self._session.is_due(now):
            self._read_all()
            self._session.wake(now)
        self._flush()

    def _read_all(self) -> None:
        """What lies in the sockets came in time, however long this process was held up."""
        for node, sock in self._sockets:
            for _ in range(sockets.MAX_BURSTS):
                if self._read(node, sock) < sockets.BURST:
                    break

    def _read(self, node: int, sock: socket.socket) -> int:
        """How many datagrams there were, BURST at most."""
        count = 0
        for sender, data in self._sockets.arrived(node, sock):
            count += 1
            if data is None:
                self._session.refused(sender, time.monotonic())
            else:
                self._session.receive(sender, data, time.monotonic(), direct=node == ANY_NODE)
        return count

    def _flush(self) -> None:
        outbox = self._session.outbox
        for send in outbox:  # it may grow on the way
            if not self._sockets.send(send):
                self._session.refused(send.node, time.monotonic())
        outbox.clear()
