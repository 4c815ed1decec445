"""The asyncio client: any number of requests under way, on one socket for each node."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar, overload

from kdht.client import _calls as calls
from kdht.client import _certified as certified
from kdht.client import _large as large
from kdht.client import _large_streams as streams
from kdht.client import _sets as sets
from kdht.client import _sockets as sockets
from kdht.client import _steps as steps
from kdht.client._aio_announcement import AsyncAnnouncement
from kdht.client._aio_large import OpenValue, Pieces
from kdht.client._arguments import Key
from kdht.client._calls import Call, Hop
from kdht.client._certified import SignedRecord
from kdht.client._chunks import Progress, no_progress
from kdht.client._driver import CLOSED, ClientDriver
from kdht.client._keyfiles import SealKey, SigningKey
from kdht.client._large import NewUpload
from kdht.client._manifest import MAX_IN_MEMORY, MAX_LARGE, UPLOAD_ID_LEN, Manifest
from kdht.client._options import ClientOptions
from kdht.client._set_watch import SetWatch
from kdht.client._sources import Given, InMemory, IntoFile, Source
from kdht.client._steps import WINDOW, AsyncSteps
from kdht.client._watch import WatchExchange
from kdht.errors import RequestError
from kdht.wire import Buffer, Record
from kdht.wire import _shared as shared
from kdht.wire.bencode import Bencodable
from kdht.wire.rights import Token
from kdht.wire.sets import FIRST, MAX_MEMBER_TTL, Member, MembersPage

K = TypeVar("K", bound=Key)
T = TypeVar("T")


class AsyncClient:
    """Gets and puts values through any of `nodes`, as `Client` does, from one event loop.

    `Client` documents the arguments, the methods and their errors. The first request looks names up and opens the
    sockets, so it may also raise ConfigError, or RequestError if this host has no route. A cancelled request is given
    up. A cancelled upload deletes its chunks in the background; `close` waits for that.
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
        """Raises ConfigError for an impossible limit, a bad token, or text that names no node."""
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
        self._nodes = sockets.node_list(nodes)
        self._pid = os.getpid()
        self._opening = asyncio.Lock()
        self._driver: ClientDriver | None = None
        self._closed = False

    @property
    def max_value(self) -> int:
        """Bytes that one `put` takes: fewer with a token or a seal, and 8 fewer with a condition."""
        return self._options.max_value

    def key_of(self, name: Key) -> bytes:
        """The 20 bytes that the cluster knows a name by: its hash, in this client's scope."""
        return self._options.key_of(name)

    async def get(self, key: Key, *, max_value: int = shared.MAX_VALUE, quorum: bool = False) -> bytes:
        """The value of a key. Raises NotFound, ValueTooLarge if it has more than `max_value` bytes, Unconfirmed."""
        return (await self.get_record(key, max_value=max_value, quorum=quorum)).value

    async def get_record(
        self, key: Key, *, max_value: int = shared.MAX_VALUE, quorum: bool = False
    ) -> Record:
        """The value with its version and the rest of its TTL in seconds (0: none). Raises as `get` does."""
        driver = self._driver or await self._open()
        return calls.record(await driver.answer_to(calls.get(key, max_value, quorum=quorum)))

    async def put(
        self, key: Key, value: Buffer, ttl: int | None = None, *, if_version: int | None = None
    ) -> int:
        """Store a value of at most 1104 bytes. Returns its version. Raises ValueTooLarge, Conflict, Unconfirmed."""
        return await self._run(steps.put(key, value, ttl, if_version))

    async def delete(self, key: Key, *, if_version: int | None = None) -> bool:
        """Delete the value. Returns whether there was one. Raises Conflict, Unconfirmed."""
        return await self._run(steps.delete(key, if_version))

    async def trace(self, key: Key, *, max_hops: int = shared.HOP_LIMIT) -> list[Hop]:
        """The nodes on the route to a key, the entry node first; ends at one that does not answer."""
        return await self._run(steps.trace(key, max_hops))

    async def get_many(self, keys: Iterable[K], *, window: int = WINDOW) -> dict[K, bytes]:
        """The values of the keys that have one. Raises the first failure other than NotFound."""
        return await self._run(steps.get_many(keys, window))

    async def put_many(
        self, values: Mapping[K, Buffer], ttl: int | None = None, *, window: int = WINDOW
    ) -> dict[K, int]:
        """Store all values, with `window` requests at once. Returns their versions. Raises the first failure."""
        return await self._run(steps.put_many(values.items(), ttl, window))

    async def put_large(
        self,
        key: Key,
        source: Source,
        ttl: int | None = None,
        *,
        progress: Progress = no_progress,
        if_version: int | None = None,
    ) -> int:
        """Store up to 1 GiB, in many requests. Returns the version. Raises ValueTooLarge, Conflict, what a file raises.

        A file is read in the loop's thread, 256 KiB at a time.
        """
        new = NewUpload(os.urandom(UPLOAD_ID_LEN), time.time(), self._options.chunk_size)
        return await self._run(large.put(key, Given(source, new.chunk_size), ttl, progress, new, if_version))

    @overload
    async def get_large(self, key: Key, *, progress: Progress = ...) -> bytes: ...
    @overload
    async def get_large(self, key: Key, *, into: BinaryIO, progress: Progress = ...) -> int: ...
    async def get_large(
        self, key: Key, *, into: BinaryIO | None = None, progress: Progress = no_progress
    ) -> bytes | int:
        """The value, large or not, whole and checked, or its bytes if it is written `into` a file: as `Client.get_large`."""
        if into is not None:
            return await self._run(large.get(key, IntoFile(into), MAX_LARGE, progress))
        whole = InMemory()
        await self._run(large.get(key, whole, MAX_IN_MEMORY, progress))
        return bytes(whole.data)

    async def delete_large(self, key: Key, *, if_version: int | None = None) -> bool:
        """Delete a value, large or not, with all its chunks. Returns whether there was one. Raises Conflict."""
        return await self._run(large.delete(key, time.time(), if_version))

    async def put_stream(
        self,
        key: Key,
        source: AsyncIterable[bytes],
        ttl: int | None = None,
        *,
        if_version: int | None = None,
    ) -> int:
        """Store up to 1 GiB while it arrives: in one record if it fits, else as a large value. Returns the version.

        At most 256 KiB are in memory. An exception of `source` is raised, and nothing stays of the upload. Either way the
        parts of a large value that was there are deleted. Raises ValueTooLarge, Conflict, Unconfirmed.
        """
        most = self.max_value - (0 if if_version is None else shared.CONDITION_LEN)
        upload = NewUpload(os.urandom(UPLOAD_ID_LEN), time.time(), self._options.chunk_size)
        return await self._run(streams.put(key, Pieces(source).take, ttl, if_version, upload, most))

    async def open_value(self, key: Key, *, quorum: bool = False) -> OpenValue:
        """A value, large or not, to read as a stream or in parts. Raises as `get` does."""
        record = await self.get_record(key, quorum=quorum)
        return OpenValue(key, record, Manifest.parse(record.value), self._run)

    async def put_immutable(self, value: Buffer, ttl: int | None = None) -> bytes:
        """Store a value of at most 1104 bytes under a hash of itself. Returns that key, 20 bytes."""
        return await self._run(certified.write_immutable(value, ttl))

    async def get_immutable(self, key: bytes, *, quorum: bool = False) -> bytes:
        """The value of a key that `put_immutable` returned, checked. Raises NotFound."""
        return await self._run(certified.read_immutable(key, quorum=quorum))

    async def put_signed(
        self,
        key: SigningKey,
        value: Bencodable,
        ttl: int | None = None,
        *,
        salt: str | bytes = b"",
        seq: int | None = None,
        if_seq: int | None = None,
    ) -> int:
        """Store a value that only the holder of `key` can change. Returns its seq. Raises Conflict, ValueTooLarge, Unconfirmed."""
        return await self._run(certified.write_signed(key, value, ttl, salt, seq, if_seq, sockets.unix_us))

    async def get_signed(
        self, public_key: bytes, *, salt: str | bytes = b"", quorum: bool = False
    ) -> SignedRecord:
        """The value that the holder of this key signed last, checked. Raises NotFound."""
        return await self._run(certified.read_signed(public_key, salt, quorum=quorum))

    async def watch(self, key: Key, *, lease: int = 30) -> AsyncGenerator[Record | None, None]:
        """The record now and after every change, None if there is none; without end.

        Close the generator to end the watch (`contextlib.aclosing`).
        """
        events = self._watch(calls.watch(key, lease), lease, WatchExchange)
        async with aclosing(events):
            async for event in events:
                yield event

    async def watch_members(self, name: Key, *, lease: int = 30) -> AsyncGenerator[list[Member], None]:
        """All members of a set, now and after every change; without end. Close the generator to end the watch."""
        self._options.fitted(sets.members_call(name, FIRST, quorum=False))  # raises for what is wrong
        events = self._watch(sets.watch_call(name, lease), lease, SetWatch)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _watch(self, call: Call, lease: int, kind: type[WatchExchange]) -> AsyncGenerator[Any, None]:
        driver = self._driver or await self._open()
        watch = driver.watch(call, lease, kind)
        try:
            while True:
                while watch.events:
                    yield watch.events.popleft()
                if watch.error is not None:
                    raise watch.error
                await driver.wait_for(watch)
        finally:
            # Also if the caller leaves the loop: the nodes need not keep the lease.
            driver.end(watch)

    def announce(
        self,
        name: Key,
        payload: Buffer,
        ttl: int = sets.DEFAULT_TTL,
        *,
        member: str | bytes | None = None,
        soft: bool = False,
    ) -> AsyncAnnouncement:
        """Be a member of the set `name` until the result is closed: use it in an `async with`.

        A task renews the membership, three times in `ttl` seconds. `soft`: as in `Client.announce`.
        """
        self._options.fitted(sets.announce_call(name, payload, ttl, member))  # raises for what is wrong
        return AsyncAnnouncement(
            lambda renewal: self.announce_once(name, payload, ttl, member=member, soft=soft, renewal=renewal),
            lambda: self.withdraw(name, payload, ttl, member=member),
            ttl,
        )

    async def announce_once(
        self,
        name: Key,
        payload: Buffer,
        ttl: int = sets.DEFAULT_TTL,
        *,
        member: str | bytes | None = None,
        soft: bool = False,
        renewal: bool = False,
    ) -> int:
        """Be a member for `ttl` seconds; the options as in `Client.announce_once`. Returns the version. Raises Unconfirmed."""
        return await self._run(sets.announce(name, payload, ttl, member, soft=soft, renewal=renewal))

    async def withdraw(
        self,
        name: Key,
        payload: Buffer = b"",
        ttl: int = MAX_MEMBER_TTL,
        *,
        member: str | bytes | None = None,
    ) -> bool:
        """End the membership of this payload, or of `member`. Returns whether there was one."""
        return await self._run(sets.withdraw(name, payload, ttl, member))

    async def members(
        self, name: Key, *, quorum: bool = False, sample: bool = False, most: int | None = None
    ) -> list[Member]:
        """The members of a set: all of them; with `sample`, or of more than `most`, as many as one answer has. Raises Unconfirmed."""
        if sample:
            return await self._run(sets.sample(name, quorum=quorum))
        return await self._run(sets.members(name, quorum=quorum, most=most))

    async def members_page(self, name: Key, *, quorum: bool = False) -> MembersPage:
        """A sample of the members, and how many there are. Raises Unconfirmed."""
        return await self._run(sets.one_page(name, quorum=quorum))

    async def close(self) -> None:
        """Wait until cancelled uploads have deleted their chunks, then close the sockets. May be called again.

        Requests under way raise RequestError.
        """
        self._closed = True
        if self._driver is not None:
            await self._driver.close()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self) -> ClientDriver:
        sockets.check_process(self._pid)
        # Several first requests at once open the sockets once.
        async with self._opening:
            if self._closed:
                raise RequestError(CLOSED)
            if self._driver is None:
                infos = await _resolve(self._nodes)
                loop = asyncio.get_running_loop()
                self._driver = ClientDriver(loop, infos, self._options.session, direct=self._options.direct)
            return self._driver

    async def _run(self, operation: AsyncSteps[T]) -> T:
        driver = self._driver or await self._open()
        return await driver.run(operation)


async def _resolve(nodes: Iterable[tuple[str, int]]) -> list[sockets.Info]:
    """All addresses of all nodes, in order. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    infos: list[sockets.Info] = []
    for host, port in nodes:
        try:
            infos += await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise sockets.unresolved(host, error) from None
    return infos
