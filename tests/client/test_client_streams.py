"""Values as streams: written while they arrive, read in parts, and never half of one taken for the whole."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

import pytest
from scripted_node import refusal
from scripted_store import ScriptedStore

from kdht import AsyncClient
from kdht.client._chunks import PIECE_CHUNKS
from kdht.client._manifest import CHUNK_SIZE, MAX_LARGE, journal_name, parse_journal
from kdht.errors import Conflict, NotFound, PartMissing, ValueTooLarge
from kdht.wire import _shared as shared
from kdht.wire import hash_key
from kdht.wire._shared import Op, Status

LARGE = random.Random(20).randbytes((PIECE_CHUNKS + 3) * CHUNK_SIZE + 7)
"""Two pieces."""
KEY = hash_key("big")
JOURNAL = hash_key(journal_name(KEY))


def on(store: ScriptedStore, test: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def main(name: str) -> None:
        async with AsyncClient(name, timeout=2.0) as client:
            await test(client)

    with store.node() as node:
        asyncio.run(main(node.name))


async def in_parts(value: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    for start in range(0, len(value), size):
        yield value[start : start + size]


async def broken(value: bytes) -> AsyncIterator[bytes]:
    yield value
    raise ConnectionResetError("the sender went away")


async def count(parts: AsyncIterable[bytes], got: Counter[str]) -> None:
    async for part in parts:
        got["bytes"] += len(part)


def chunks(store: ScriptedStore) -> int:
    return len(store.records.keys() - {KEY, JOURNAL})


async def whole(client: AsyncClient, begin: int = 0, end: int | None = None) -> bytes:
    opened = await client.open_value("big")
    return b"".join([part async for part in opened.parts(begin, end)])


@pytest.mark.parametrize(
    "size", [0, 1, shared.MAX_VALUE, shared.MAX_VALUE + 1, PIECE_CHUNKS * CHUNK_SIZE, len(LARGE)]
)
def test_a_value_goes_both_ways(size: int) -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        version = await client.put_stream("big", in_parts(LARGE[:size]), ttl=60)
        opened = await client.open_value("big")
        assert (opened.version, opened.size, opened.is_large) == (version, size, size > shared.MAX_VALUE)
        assert 0 < opened.ttl <= 60
        assert await whole(client) == LARGE[:size] == await client.get_large("big")

    on(store, test)
    assert chunks(store) == (-(-size // CHUNK_SIZE) if size > shared.MAX_VALUE else 0)


def test_what_fits_one_record_takes_one_write() -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        await client.put_stream("big", in_parts(b"small"))

    on(store, test)
    assert (store.asked[Op.PUT], store.asked[Op.GET]) == (1, 1)


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (0, 1),
        (5, 5),
        (CHUNK_SIZE - 1, CHUNK_SIZE + 1),
        (7, None),
        (len(LARGE) - 1, len(LARGE) + 9),
        (0, None),
    ],
)
def test_any_part_can_be_read(begin: int, end: int | None) -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        await client.put_stream("big", in_parts(LARGE))
        before = store.asked[Op.GET]
        assert await whole(client, begin, end) == LARGE[begin:end]
        wanted = len(LARGE[begin:end])
        assert store.asked[Op.GET] - before <= 2 * (wanted // CHUNK_SIZE + 4)  # some are asked for twice

    on(store, test)


def test_a_small_value_is_read_in_parts_too() -> None:
    async def test(client: AsyncClient) -> None:
        await client.put("big", b"0123456789")
        assert await whole(client, 2, 5) == b"234"
        assert await whole(client, 10, 12) == b""
        with pytest.raises(NotFound):
            await client.open_value("nothing")

    on(ScriptedStore(), test)


def test_nothing_stays_of_a_stream_that_breaks() -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        with pytest.raises(ConnectionResetError):
            await client.put_stream("big", broken(LARGE))

    on(store, test)
    assert store.records == {}


def test_nothing_stays_of_a_cancelled_stream() -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        arrived = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            yield LARGE
            arrived.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(client.put_stream("big", endless()))
        await arrived.wait()
        assert chunks(store) > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on(store, test)  # which closes the client, and so waits for the deletions
    assert store.records == {}


def test_a_stream_without_end_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdht.client._chunks.MAX_LARGE", 3 * PIECE_CHUNKS * CHUNK_SIZE)
    store = ScriptedStore()
    assert MAX_LARGE > 3 * PIECE_CHUNKS * CHUNK_SIZE

    async def test(client: AsyncClient) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(1 << 20)

        with pytest.raises(ValueTooLarge):
            await client.put_stream("big", endless())

    on(store, test)
    assert store.records == {}


@pytest.mark.parametrize("method", ["put_stream", "put_large"])
def test_a_condition_that_does_not_hold_leaves_the_old_value_and_no_chunk(method: str) -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        version = await client.put("big", b"old")
        source = in_parts(LARGE) if method == "put_stream" else LARGE
        with pytest.raises(Conflict) as raised:
            await getattr(client, method)("big", source, if_version=version - 1)
        assert raised.value.version == version
        assert await client.get("big") == b"old"
        assert chunks(store) == 0
        source = in_parts(LARGE) if method == "put_stream" else LARGE
        await getattr(client, method)("big", source, if_version=version)
        assert await whole(client) == LARGE

    on(store, test)


def test_a_large_value_is_deleted_under_a_condition() -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        version = await client.put_stream("big", in_parts(LARGE))
        with pytest.raises(Conflict):
            await client.delete_large("big", if_version=version - 1)
        assert await whole(client) == LARGE
        assert await client.delete_large("big", if_version=version)

    on(store, test)
    assert store.records == {}


@pytest.mark.parametrize("size", [5, len(LARGE)])
def test_the_parts_of_an_older_large_value_are_deleted(size: int) -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        await client.put_stream("big", in_parts(LARGE[::-1]))
        await client.put_stream("big", in_parts(LARGE[:size]))
        assert await whole(client) == LARGE[:size]

    on(store, test)
    assert chunks(store) == (-(-size // CHUNK_SIZE) if size > shared.MAX_VALUE else 0)
    uploads = parse_journal(store.value(journal_name(KEY))) if JOURNAL in store.records else []
    assert len(uploads) == (size > shared.MAX_VALUE)


def test_a_small_write_stands_if_the_journal_cannot_be_read() -> None:
    def denied(request):
        return [refusal(request, Status.DENIED)] if request.op == Op.GET else None

    store = ScriptedStore(denied)

    async def test(client: AsyncClient) -> None:
        assert await client.put_stream("big", in_parts(b"small"))

    on(store, test)
    assert store.value("big") == b"small"


def test_a_damaged_value_is_not_read_to_its_end() -> None:
    store = ScriptedStore()

    async def test(client: AsyncClient) -> None:
        await client.put_stream("big", in_parts(LARGE))
        key = next(key for key in store.records if key not in (KEY, JOURNAL))
        record = store.records[key]
        altered = record.value[:-1] + bytes([record.value[-1] ^ 1])
        store.records[key] = record._replace(value=altered)
        got = Counter[str]()
        with pytest.raises(PartMissing, match="digest"):
            await count((await client.open_value("big")).parts(), got)
        assert 0 < got["bytes"] < len(LARGE)
        del store.records[key]

    async def without_it(client: AsyncClient) -> None:
        with pytest.raises(PartMissing, match="not there"):
            await whole(client)

    on(store, test)
    on(store, without_it)
