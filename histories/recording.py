"""A client with a record of every operation. Workloads use it alike, blocking or not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from histories.record import Kind, Operation, Outcome, Recorder, now_ns
from kdht import AsyncClient, Client
from kdht.errors import Conflict, NotFound, RequestError, RequestTimeout, Unconfirmed
from kdht.wire import Record

TIMEOUT = 4.0
"""Seconds that a request may take."""


class RecordedCalls(Protocol):
    """What AsyncClient has, and `Blocking` for Client."""

    async def put(self, key: str, value: bytes, *, if_version: int | None = None) -> int: ...
    async def delete(self, key: str, *, if_version: int | None = None) -> bool: ...
    async def get_record(self, key: str, *, quorum: bool = False) -> Record: ...
    async def close(self) -> None: ...


class Blocking:
    """The blocking client, each call in a thread. One call at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def put(self, key: str, value: bytes, *, if_version: int | None = None) -> int:
        return await asyncio.to_thread(self._client.put, key, value, if_version=if_version)

    async def delete(self, key: str, *, if_version: int | None = None) -> bool:
        return await asyncio.to_thread(self._client.delete, key, if_version=if_version)

    async def get_record(self, key: str, *, quorum: bool = False) -> Record:
        return await asyncio.to_thread(self._client.get_record, key, quorum=quorum)

    async def close(self) -> None:
        self._client.close()


def connect(nodes: list[str], *, blocking: bool, direct: bool, spread: bool) -> RecordedCalls:
    if blocking:
        return Blocking(Client(nodes, timeout=TIMEOUT, direct=direct, spread_reads=spread))
    return AsyncClient(nodes, timeout=TIMEOUT, direct=direct, spread_reads=spread)


class Recorded:
    """One client and its name in the history."""

    def __init__(self, name: str, calls: RecordedCalls, recorder: Recorder) -> None:
        self.name = name
        self._calls = calls
        self._recorder = recorder
        self._written = 0

    def mark(self) -> str:
        """A mark that no other write of the run has."""
        self._written += 1
        return f"{self.name}:{self._written}"

    async def put(self, key: str, value: str, condition: int | None = None) -> Operation:
        async def call() -> tuple[str | None, int]:
            return value, await self._calls.put(key, value.encode(), if_version=condition)

        return await self._record("put", key, call, value, condition)

    async def delete(self, key: str, condition: int | None = None) -> Operation:
        async def call() -> tuple[str | None, int]:
            await self._calls.delete(key, if_version=condition)
            return None, 0

        return await self._record("delete", key, call, None, condition)

    async def read(self, key: str, *, quorum: bool) -> Operation:
        async def call() -> tuple[str | None, int]:
            record = await self._calls.get_record(key, quorum=quorum)
            return record.value.decode(), record.version

        return await self._record("quorum_get" if quorum else "get", key, call, None, None)

    def told(self, key: str, record: Record | None, since_ns: int) -> None:
        """What a watch that began at that time said just now."""
        value, version = (None, 0) if record is None else (record.value.decode(), record.version)
        outcome: Outcome = "not_found" if record is None else "ok"
        self._recorder.add(Operation(self.name, "watch", key, since_ns, now_ns(), outcome, value, version))

    async def close(self) -> None:
        await self._calls.close()

    async def _record(
        self,
        kind: Kind,
        key: str,
        call: Callable[[], Awaitable[tuple[str | None, int]]],
        value: str | None,
        condition: int | None,
    ) -> Operation:
        outcome: Outcome = "ok"
        version, error = 0, ""
        invoked = now_ns()
        try:
            value, version = await call()
        except RequestError as caught:
            outcome, version, error = outcome_of(caught)
        returned = now_ns()
        operation = Operation(
            self.name, kind, key, invoked, returned, outcome, value, version, condition, error
        )
        self._recorder.add(operation)
        return operation


def outcome_of(error: RequestError) -> tuple[Outcome, int, str]:
    """The outcome, the version that stands, and the error's words."""
    if isinstance(error, NotFound):
        return "not_found", 0, ""
    if isinstance(error, Conflict):
        return "conflict", error.version, ""
    told = f"{type(error).__name__}: {error}"
    if isinstance(error, (Unconfirmed, RequestTimeout)) or error.status is None:
        return "unknown", 0, told
    return "refused", 0, told
