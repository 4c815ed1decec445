"""The blocking client."""

import os
import selectors
import socket
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, overload

from kdht.client import _calls as calls
from kdht.client import _certified as certified
from kdht.client import _large as large
from kdht.client import _sets as sets
from kdht.client import _sockets as sockets
from kdht.client import _steps as steps
from kdht.client._announcement import Announcement
from kdht.client._arguments import Key
from kdht.client._bulk import BulkSocket
from kdht.client._calls import Answer, Call, Hop
from kdht.client._certified import SignedRecord
from kdht.client._chunks import Progress, no_progress
from kdht.client._keyfiles import SealKey, SigningKey
from kdht.client._large import NewUpload
from kdht.client._manifest import MAX_IN_MEMORY, MAX_LARGE, UPLOAD_ID_LEN
from kdht.client._options import ClientOptions
from kdht.client._pump import Pump
from kdht.client._set_watch import SetWatch
from kdht.client._sources import Given, InMemory, IntoFile, Source
from kdht.client._steps import WINDOW, Flight, Many, Step, Steps
from kdht.client._transfer import Bulk, Transfer
from kdht.client._watch import WatchExchange
from kdht.errors import RequestError
from kdht.wire import Buffer, Record
from kdht.wire import _shared as shared
from kdht.wire.bencode import Bencodable
from kdht.wire.rights import Token
from kdht.wire.sets import FIRST, MAX_MEMBER_TTL, Member

K = TypeVar("K", bound=Key)
T = TypeVar("T")


class Client:
    """Gets and puts values through any of `nodes` ("host:port", "[v6]:port" or a host alone).

        from kdht import Client, NotFound

        with Client(["10.0.0.1", "10.0.0.2"]) as client:
            version = client.put("greeting", "hello".encode(), ttl=3600)
            client.put("greeting", b"hi", if_version=version)
            try:
                print(client.get("greeting"))
            except NotFound:
                print("nobody greets")

    - values: `get`, `put`, `delete`, `get_record` (with version and TTL), `get_many`, `put_many`, `watch`
    - values of up to 1 GiB: `get_large`, `put_large`, `delete_large`
    - sets: `announce`, `announce_once`, `withdraw`, `members`, `watch_members`
    - values that prove themselves: `put_immutable`, `get_immutable`, `put_signed`, `get_signed`
    - the cluster: `trace`, `key_of`

    The arguments:

    - `timeout` (seconds) and `attempts` (tries) limit each request. A method with several gives them to each one;
      of a large value, `timeout` limits the time without an answer to any of its parts.
    - `direct`: the node that holds the value replies to you itself. There must be no NAT and no stateful firewall in
      between; if such answers do not come, the client asks again without.
    - `spread_reads`: reads go to any replica of a key, so many clients of one key do not all wait for its owner. A
      read may then be older than another client's.
    - `learn`: ask nodes that the cluster names if none of `nodes` answers.
    - `token`: what proves this client's rights, the text from `kdhtctl token new`; left out, the one in `$KDHT_TOKEN`.
      `@FILE` stands for the text in a file. "" is none.
    - `scope`: the keys lie in the scope with this name; left out, in the token's. Each scope has its own keys.
    - `seal`: encrypt all values with this `SealKey`, or the one in a file. Nodes see neither the values nor can they alter them.
      Values that were not sealed with it are errors.

    Every method raises RequestTimeout if no answer comes, PortClosed at once if no node listens, Denied for want of a right,
    and RequestError if the cluster refuses otherwise. After Unconfirmed or RequestTimeout a write may have been done, but never twice.
    Not thread-safe: give each thread, and each process, a client of its own.
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
        token: str | Token | None = None,
        scope: str | None = None,
        seal: SealKey | str | os.PathLike[str] | None = None,
    ) -> None:
        """Looks names up, which blocks. Raises ConfigError for a node without an address, an impossible limit
        or a bad token, RequestError if this host has no route to any node.
        """
        self._arguments: dict[str, Any] = {
            "nodes": nodes, "timeout": timeout, "attempts": attempts, "direct": direct, "learn": learn, "token": token, "scope": scope,
        }  # fmt: skip
        self._options = ClientOptions(
            timeout,
            attempts,
            direct=direct,
            spread_reads=spread_reads,
            learn=learn,
            token=token,
            scope=scope,
            seal=seal,
        )
        infos = sockets.resolve(sockets.node_list(nodes))
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._sockets = sockets.Sockets(
            infos, direct=direct, on_open=self._listen, on_close=self._selector.unregister
        )
        self._session = self._options.session(self._sockets)
        self._pump = Pump(self._sockets, self._session, time.monotonic)

    @property
    def max_value(self) -> int:
        """Bytes that one `put` takes: fewer with a token or a seal, and 8 fewer with a condition."""
        return self._options.max_value

    def key_of(self, name: Key) -> bytes:
        """The 20 bytes that the cluster knows a name by: its hash, in this client's scope."""
        return self._options.key_of(name)

    def get(self, key: Key, *, max_value: int = shared.MAX_VALUE, quorum: bool = False) -> bytes:
        """The value of a key. Raises NotFound, ValueTooLarge if it has more than `max_value` bytes.

        With `quorum`: the newest value that a majority of the replicas has. Raises Unconfirmed if too few answer, or if
        there is only an older value than this client has seen.
        """
        return self.get_record(key, max_value=max_value, quorum=quorum).value

    def get_record(self, key: Key, *, max_value: int = shared.MAX_VALUE, quorum: bool = False) -> Record:
        """The value with its version and the rest of its TTL in seconds (0: none). Raises as `get` does."""
        return calls.record(self._answer_to(calls.get(key, max_value, quorum=quorum)))

    def put(self, key: Key, value: Buffer, ttl: int | None = None, *, if_version: int | None = None) -> int:
        """Store a value of at most 1104 bytes (with a token 1040), for `ttl` seconds or without end. Returns its version.

        With `if_version` only if the key has that version, or no record for 0; else raises Conflict. Such a value
        has at most 1096 bytes (with a token 1032). Raises ValueTooLarge before anything is sent, and Unconfirmed if the write may have been
        done or not, or may have been done and overwritten.
        """
        return self._run(steps.put(key, value, ttl, if_version))

    def delete(self, key: Key, *, if_version: int | None = None) -> bool:
        """Delete the value. Returns whether there was one. Raises Unconfirmed as `put` does.

        With `if_version` only if the key has that version; else raises Conflict.
        """
        return self._run(steps.delete(key, if_version))

    def trace(self, key: Key, *, max_hops: int = shared.HOP_LIMIT) -> list[Hop]:
        """The nodes on the route to a key, the entry node first; ends at one that does not answer."""
        return self._run(steps.trace(key, max_hops))

    def get_many(self, keys: Iterable[K], *, window: int = WINDOW) -> dict[K, bytes]:
        """The values of the keys that have one, with `window` requests at once.

        Raises the first failure other than NotFound, and gives up what is under way.
        """
        return self._run(steps.get_many(keys, window))

    def put_many(
        self, values: Mapping[K, Buffer], ttl: int | None = None, *, window: int = WINDOW
    ) -> dict[K, int]:
        """Store all values, with `window` requests at once; `ttl` in seconds. Returns their versions.

        Raises the first failure. Values that were written before it stay.
        """
        return self._run(steps.put_many(values.items(), ttl, window))

    def put_large(
        self,
        key: Key,
        source: Source,
        ttl: int | None = None,
        *,
        progress: Progress = no_progress,
        if_version: int | None = None,
    ) -> int:
        """Store up to 1 GiB, from bytes or a binary file, in many requests. Returns the version.

        A file is read from its position to its end, and never held in memory as a whole. Readers see the old value until the new
        one is complete. If a key has or had a large value, write it with this method and delete it with `delete_large`. `ttl` is
        in seconds; `progress` is called with the bytes done and the bytes in all, 0 if the file does not say. If it fails or is
        interrupted, it deletes what it has written. Raises ValueTooLarge, what the file raises, and with `if_version` Conflict as
        `put` does.
        """
        new = NewUpload(os.urandom(UPLOAD_ID_LEN), time.time(), self._options.chunk_size)
        return self._run(large.put(key, Given(source, new.chunk_size), ttl, progress, new, if_version))

    @overload
    def get_large(self, key: Key, *, progress: Progress = ...) -> bytes: ...
    @overload
    def get_large(self, key: Key, *, into: BinaryIO, progress: Progress = ...) -> int: ...
    def get_large(
        self, key: Key, *, into: BinaryIO | None = None, progress: Progress = no_progress
    ) -> bytes | int:
        """The value, large or not, whole and checked: at most 64 MiB. Raises NotFound, RequestError if a part of it is missing.

        With `into` it is written to that binary file instead, of any size, and its bytes are returned. The last part is written after
        the check; if this raises, what the file has is worth nothing. Raises PartMissing too, if the value is replaced meanwhile
        and the file cannot go back.
        """
        if into is not None:
            return self._run(large.get(key, IntoFile(into), MAX_LARGE, progress))
        whole = InMemory()
        self._run(large.get(key, whole, MAX_IN_MEMORY, progress))
        return bytes(whole.data)

    def delete_large(self, key: Key, *, if_version: int | None = None) -> bool:
        """Delete a value, large or not, with all its chunks, also those of unfinished uploads.

        Returns whether there was one.
        """
        return self._run(large.delete(key, time.time(), if_version))

    def put_immutable(self, value: Buffer, ttl: int | None = None) -> bytes:
        """Store a value of at most 1104 bytes under a hash of itself. Returns that key, 20 bytes.

        Nobody can change it, nor delete it; it ends with its TTL. To put it again may make it last longer, and never shorter.
        """
        return self._run(certified.write_immutable(value, ttl))

    def get_immutable(self, key: bytes, *, quorum: bool = False) -> bytes:
        """The value of a key that `put_immutable` returned. It is checked here, whatever nodes say. Raises NotFound."""
        return self._run(certified.read_immutable(key, quorum=quorum))

    def put_signed(
        self,
        key: SigningKey,
        value: Bencodable,
        ttl: int | None = None,
        *,
        salt: str | bytes = b"",
        seq: int | None = None,
        if_seq: int | None = None,
    ) -> int:
        """Store a value that only the holder of `key` can change. Returns its seq.

        `value` is bytes, text, a number, a list or a dictionary: with `salt` at most 1000 bytes, bencoded (BitTorrent's BEP 44).
        One key has a value for each `salt`, of at most 64 bytes. `seq` has to grow; by default it is the time in microseconds.
        With `if_seq` only if the key has that seq, or no value for -1; else raises Conflict. A value is not deleted: put an
        empty one, or a TTL. Raises Conflict if the key has a greater seq, ValueTooLarge, Unconfirmed as `put` does.
        """
        return self._run(certified.write_signed(key, value, ttl, salt, seq, if_seq, sockets.unix_us))

    def get_signed(self, public_key: bytes, *, salt: str | bytes = b"", quorum: bool = False) -> SignedRecord:
        """The value that the holder of this key signed last. The signature is checked here. Raises NotFound.

        A client never goes back to a lower seq that it has seen; with `quorum` neither does it to one that others have written.
        """
        return self._run(certified.read_signed(public_key, salt, quorum=quorum))

    def watch(self, key: Key, *, lease: int = 30) -> Generator[Record | None, None, None]:
        """The record now and after every change, None if there is none; without end.

        Quick changes may be told as one; the last one is always told. The nodes keep the watch for `lease` seconds, at
        most 60; the client renews it while you wait in `next`. Between two `next` you may call the client's other
        methods. Close the generator to end the watch. Raises RequestTimeout when no node answers any more.
        """
        call = calls.watch(key, lease)
        return self._watch(call, lease)

    def announce(
        self,
        name: Key,
        payload: Buffer,
        ttl: int = sets.DEFAULT_TTL,
        *,
        member: str | bytes | None = None,
        soft: bool = False,
    ) -> Announcement:
        """Be a member of the set `name`, with at most 256 bytes for its readers, until the result is closed.

        Use it in a `with`. A thread of its own renews the membership, three times in `ttl` seconds (at most 86400). After a
        crash it ends with its TTL, at all nodes in the same second. A member is known by its payload, or by `member`: to announce
        again under the same one changes its payload. Members of another token are never touched.

        A `soft` membership is acknowledged from the memory of the nodes, without a sync of their disks. It costs much less, and
        a power failure of all its replicas at once may end it until it is renewed.
        """
        self._options.fitted(sets.announce_call(name, payload, ttl, member))  # raises for what is wrong
        own = Client(**self._arguments)
        try:
            return Announcement(
                lambda renewal: own.announce_once(
                    name, payload, ttl, member=member, soft=soft, renewal=renewal
                ),
                lambda: own.withdraw(name, payload, ttl, member=member),
                ttl,
                own.close,
            )
        except BaseException:
            own.close()
            raise

    def announce_once(
        self,
        name: Key,
        payload: Buffer,
        ttl: int = sets.DEFAULT_TTL,
        *,
        member: str | bytes | None = None,
        soft: bool = False,
        renewal: bool = False,
    ) -> int:
        """Be a member for `ttl` seconds; `soft` as in `announce`. Returns the version. Raises Unconfirmed as `put` does.

        With `renewal` nothing is written if the same announcement has still half of `ttl` left. Use it if you announce again
        within half of `ttl`. Then the returned version is that of the announcement before.
        """
        return self._run(sets.announce(name, payload, ttl, member, soft=soft, renewal=renewal))

    def withdraw(
        self,
        name: Key,
        payload: Buffer = b"",
        ttl: int = MAX_MEMBER_TTL,
        *,
        member: str | bytes | None = None,
    ) -> bool:
        """End the membership of this payload, or of `member`. Returns whether there was one.

        `ttl`: the greatest of its announcements'; for so long the nodes remember the withdrawal.
        """
        return self._run(sets.withdraw(name, payload, ttl, member))

    def members(
        self, name: Key, *, quorum: bool = False, sample: bool = False, most: int | None = None
    ) -> list[Member]:
        """The members of a set: ID, seconds left, payload. All of them; with `sample` as many as one answer has, others at
        each call; with `most` all of a set of so many, of a larger one a sample.

        With `quorum` every member that was acknowledged before is among them. Raises Unconfirmed if too few replicas answer.
        """
        if sample:
            return self._run(sets.sample(name, quorum=quorum))
        return self._run(sets.members(name, quorum=quorum, most=most))

    def watch_members(self, name: Key, *, lease: int = 30) -> Generator[list[Member], None, None]:
        """All members of a set, now and after every change; without end.

        Quick changes may be told as one; the last one is always told, at most a third of `lease` seconds (at most 60) later. A
        renewal is no change. For the rest it is as `watch`.
        """
        self._options.fitted(sets.members_call(name, FIRST, quorum=False))  # raises for what is wrong
        return self._watch(sets.watch_call(name, lease), lease, SetWatch)

    def close(self) -> None:
        """Close the sockets. May be called again."""
        self._selector.close()
        self._sockets.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, operation: Steps[T]) -> T:
        """Carry out an operation's steps until it returns. It also gets an interruption, to delete what it has written."""
        step: Callable[[], Step] = partial(next, operation)
        try:
            while True:
                wanted = step()
                given: Answer | None = None
                try:
                    if isinstance(wanted, Many):
                        self._do_many(wanted)
                    elif isinstance(wanted, Bulk):
                        self._do_bulk(wanted)
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

    def _do_bulk(self, bulk: Bulk) -> None:
        self._check_open("many requests")
        sockets: list[socket.socket] = []

        def open_socket(node: int) -> BulkSocket | None:
            sock = self._sockets.open_bulk(node)
            if sock is None:
                return None
            sockets.append(sock)
            read = lambda: transfer.received(node, time.monotonic())  # noqa: E731
            self._selector.register(sock, selectors.EVENT_READ, read)
            return BulkSocket(sock.fileno())

        transfer = Transfer(self._session, bulk, open_socket, lambda: None, time.monotonic)
        try:
            transfer.go_on(time.monotonic())
            while not transfer.done:
                self._step(transfer.next_wake())
                if transfer.next_wake() <= time.monotonic():
                    transfer.wake(time.monotonic())
        finally:
            transfer.end()
            for sock in sockets:
                self._selector.unregister(sock)
                sock.close()
        if transfer.error is not None:
            raise transfer.error

    def _watch(
        self, call: Call, lease: int, kind: type[WatchExchange] = WatchExchange
    ) -> Generator[Any, None, None]:
        self._check_open(call)
        watch = self._session.watch(call, lease, time.monotonic(), _polled, kind)
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
                self._pump.send()

    def _check_open(self, call: object) -> None:
        if not self._sockets:
            raise RequestError(f"{call}: the client is closed")
        sockets.check_process(self._pid)

    def _listen(self, node: int, sock: socket.socket) -> None:
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._pump.read(node, sock))

    def _step(self, until: float = inf) -> None:
        """Send what is in the outbox, wait for datagrams or the next deadline, at most until then, and handle them."""
        self._pump.send()
        wake = min(self._session.next_wake() or inf, until)
        for selected, _ in self._selector.select(max(wake - time.monotonic(), 0) if wake < inf else None):
            selected.data()
        now = time.monotonic()
        if self._session.is_due(now):
            self._pump.read_all()
            self._session.wake(now)
        self._pump.send()


def _polled() -> None:
    """No-op: this client looks at a watch's events after each step."""
