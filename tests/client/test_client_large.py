"""Large values through both clients: whole or not at all, replaced and deleted without a trace."""

import asyncio
import io
import os
import random
import signal
import time

import pytest
from both_clients import blocking
from scripted_node import drop, refusal
from scripted_store import ScriptedStore

from kdht import AsyncClient, Client
from kdht.client import _journal, _large, _manifest, _sources
from kdht.client._manifest import (
    CHUNK_SIZE,
    MAX_LARGE,
    MAX_UPLOADS,
    Manifest,
    Upload,
    chunk_name,
    cut,
    journal_name,
    pack_journal,
    parse_journal,
)
from kdht.errors import NotFound, RequestError, RequestTimeout, ValueTooLarge
from kdht.wire import Record, hash_key
from kdht.wire import _shared as shared
from kdht.wire._shared import Op, Status

VALUE = random.Random(5348).randbytes(20 * CHUNK_SIZE + 7)
OTHER = random.Random(5349).randbytes(3 * CHUNK_SIZE)
KEY = hash_key("big")


def journal(store: ScriptedStore) -> list[Upload]:
    return parse_journal(store.value(journal_name(KEY)))


def chunks(store: ScriptedStore) -> int:
    """All records but those of the key and its journal."""
    return len(store.records.keys() - {KEY, hash_key(journal_name(KEY))})


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, len(VALUE)])
def test_a_large_value_goes_both_ways(ask, size):
    store = ScriptedStore()
    with store.node() as node:
        version = ask(node.name, "put_large", "big", VALUE[:size])
        assert store.records[KEY].version == version
        assert ask(node.name, "get_large", "big") == VALUE[:size]
    assert chunks(store) == -(-size // CHUNK_SIZE)
    assert max(len(record.value) for record in store.records.values()) <= shared.MAX_VALUE
    (upload,) = journal(store)
    assert (upload.version, upload.expiry) == (version, 0)


def test_a_file_is_stored_with_progress(ask):
    store, seen = ScriptedStore(), []
    with store.node() as node:
        ask(node.name, "put_large", "big", io.BytesIO(VALUE), progress=lambda *done: seen.append(done))
        ask(node.name, "get_large", "big", progress=lambda *done: seen.append(done))
    for half in (seen[: len(seen) // 2], seen[len(seen) // 2 :]):
        assert half[0] == (0, len(VALUE))
        assert half[-1] == (len(VALUE), len(VALUE))
        assert half == sorted(half)
        assert len(half) == 22


def test_get_large_reads_plain_values_too(ask):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put", "big", b"plain")
        assert ask(node.name, "get_large", "big") == b"plain"
        assert ask(node.name, "delete_large", "big")
        with pytest.raises(NotFound):
            ask(node.name, "get_large", "big")
    assert store.records == {}


def test_values_over_the_limit_are_refused_before_sending(ask, monkeypatch, tmp_path):
    store = ScriptedStore()
    sparse = tmp_path / "sparse"
    with store.node() as node, sparse.open("w+b") as file:
        file.truncate(MAX_LARGE + 1)
        with pytest.raises(ValueTooLarge, match="at most 1073741824 bytes"):
            ask(node.name, "put_large", "big", file)
        monkeypatch.setattr(_sources, "MAX_LARGE", 1 << 20)
        with pytest.raises(ValueTooLarge):
            ask(node.name, "put_large", "big", bytes((1 << 20) + 1))
    assert not store.asked


def test_a_value_that_would_fill_the_memory_is_read_into_a_file_only(ask, monkeypatch):
    for module in ("sync", "aio"):
        monkeypatch.setattr(f"kdht.client.{module}.MAX_IN_MEMORY", len(VALUE) - 1)
    store, file = ScriptedStore(), io.BytesIO()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        before = sum(store.asked.values())
        with pytest.raises(ValueTooLarge, match=f"has {len(VALUE)} bytes, .* into="):
            ask(node.name, "get_large", "big")
        assert sum(store.asked.values()) <= before + 2, "its manifest says its size"
        assert ask(node.name, "get_large", "big", into=file) == len(VALUE)
    assert file.getvalue() == VALUE


def test_a_replaced_value_leaves_no_chunks(ask):
    store = ScriptedStore()
    with store.node() as node:
        for value in (VALUE, OTHER):
            ask(node.name, "put_large", "big", value)
        assert ask(node.name, "get_large", "big") == OTHER
    assert chunks(store) == 3
    assert len(journal(store)) == 1


def test_a_deleted_value_leaves_no_chunks(ask):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        assert ask(node.name, "delete_large", "big") is True
        assert ask(node.name, "delete_large", "big") is False
    assert store.records == {}


@pytest.mark.parametrize("method", ["put", "delete"])
def test_chunks_left_by_a_plain_write_are_deleted_later(ask, method):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        ask(node.name, method, "big", *([b"plain"] if method == "put" else []))
        assert chunks(store) == 21
        ask(node.name, "put_large", "big", OTHER)
    assert chunks(store) == 3


def test_readers_see_the_old_value_until_the_new_one_is_complete(ask):
    seen = set()

    def look(request):
        if request.op == Op.PUT and KEY in store.records and request.key != KEY:
            seen.add(store.records[KEY].version)

    store = ScriptedStore(look)
    with store.node() as node:
        first = ask(node.name, "put_large", "big", VALUE)
        ask(node.name, "put_large", "big", OTHER)
    assert min(seen) == first
    assert store.records[KEY].version > first


def test_a_failed_upload_deletes_its_chunks(ask):
    written: dict[bytes, int] = {}

    def refuse_one_chunk(request):
        """In all its tries: a chunk that was written has not failed, whatever a later try is told."""
        if request.op == Op.PUT and written.setdefault(request.key, len(written)) == 15:
            return [refusal(request, Status.BAD_REQUEST)]
        return None

    store = ScriptedStore(refuse_one_chunk)
    with store.node() as node, pytest.raises(RequestError, match="cannot read"):
        ask(node.name, "put_large", "big", VALUE)
    assert store.records == {}


def test_an_exception_in_the_progress_callback_ends_the_upload(ask):
    def stop(done, total):
        if done > 5000:
            raise ZeroDivisionError

    store = ScriptedStore()
    with store.node() as node, pytest.raises(ZeroDivisionError):
        ask(node.name, "put_large", "big", VALUE, progress=stop)
    assert store.records == {}


def kill(node_name: str) -> None:
    """An upload whose process is killed in the middle of it."""

    def stop(done, total):
        if done > 5000:
            os._exit(0)

    pid = os.fork()
    if pid == 0:
        try:
            blocking(node_name, "put_large", "big", VALUE, progress=stop)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_delete_names_and_deletes_a_killed_upload():
    store = ScriptedStore()
    with store.node() as node:
        kill(node.name)
        (upload,) = journal(store)
        assert (upload.version, upload.chunks) == (0, 21)
        assert chunks(store) > 4
        with pytest.raises(NotFound):
            blocking(node.name, "get_large", "big")
        blocking(node.name, "delete_large", "big")
    assert store.records == {}


def test_a_put_a_day_later_deletes_a_killed_upload(monkeypatch):
    store = ScriptedStore()
    with store.node() as node:
        kill(node.name)
        blocking(node.name, "put_large", "big", OTHER)
        assert chunks(store) > 3 + 4, "it might still be under way"
        now = time.time() + _journal.ABANDONED + 10
        monkeypatch.setattr(time, "time", lambda: now)
        blocking(node.name, "put_large", "big", VALUE[:100])
        assert blocking(node.name, "get_large", "big") == VALUE[:100]
    assert chunks(store) == 1


def test_an_upload_fails_if_the_key_is_deleted_meanwhile(ask):
    store = ScriptedStore()
    with store.node() as node:

        def delete_now(done, total):
            if done == total:
                blocking(node.name, "delete_large", "big")

        with pytest.raises(RequestError, match="ended by a delete"):
            ask(node.name, "put_large", "big", VALUE, progress=delete_now)
    assert store.records == {}


def test_an_upload_deleted_at_the_last_moment_deletes_its_manifest(ask):
    def delete_now(request):
        if request.op == Op.PUT and request.key == KEY:
            store.deleted = {key: (each.version + 1, Status.OK) for key, each in store.records.items()}
            store.records.clear()

    store = ScriptedStore(delete_now)
    with store.node() as node, pytest.raises(RequestError, match="ended by a delete"):
        ask(node.name, "put_large", "big", OTHER)
    assert store.records == {}


def test_two_uploads_at_once_leave_one_value(ask):
    store = ScriptedStore()
    with store.node() as node:
        raced = []

        def other(done, total):
            if done > 5000 and not raced:
                raced.append(blocking(node.name, "put_large", "big", OTHER))

        ask(node.name, "put_large", "big", VALUE, progress=other)
        assert ask(node.name, "get_large", "big") == VALUE
    assert chunks(store) == 21
    assert len(journal(store)) == 1


@pytest.mark.parametrize("age", [0, 7200, 2 * _journal.ABANDONED])
def test_unfinished_uploads_do_not_lock_their_key(ask, age):
    """However many were killed, and however short a time ago: the oldest, or all that are dead, give way."""
    store = ScriptedStore()
    begun = int(time.time()) - age
    uploads = [Upload(bytes([number]) * 16, begun + number, 0, 1) for number in range(MAX_UPLOADS)]
    for upload in uploads:
        store.records[hash_key(chunk_name(upload.id, 0))] = Record(
            7, 0, 0, next(cut(b"x", KEY, upload.id, 1))
        )
    store.records[hash_key(journal_name(KEY))] = Record(7, 0, 0, pack_journal(uploads))
    assert len(pack_journal(uploads)) <= shared.MAX_CONDITIONAL_VALUE
    with store.node() as node:
        for _ in range(3):
            ask(node.name, "put_large", "big", VALUE)
        assert ask(node.name, "get_large", "big") == VALUE
    named = journal(store)
    assert len(named) <= MAX_UPLOADS
    assert uploads[0] not in named
    assert chunks(store) == 21 + len(named) - 1, "what is no longer named is not there"
    assert (len(named) == 1) == (age > _journal.ABANDONED)


def test_a_cancelled_upload_deletes_its_chunks():
    """Beside what its caller goes on with; the client's end waits for it."""

    async def run(name):
        begun = asyncio.Event()
        async with AsyncClient(name) as client:
            progress = lambda done, total: done > 5000 and begun.set()  # noqa: E731
            uploading = asyncio.create_task(client.put_large("big", VALUE * 20, progress=progress))
            await begun.wait()
            uploading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await uploading
            assert await client.get("other") == b"goes on"

    store = ScriptedStore()
    store.records[hash_key("other")] = Record(7, 0, 0, b"goes on")
    with store.node() as node:
        asyncio.run(run(node.name))
    assert store.records.keys() == {hash_key("other")}
    assert store.asked[Op.DELETE] < 21 * 20, "what was not sent is not deleted"


def test_a_closed_uploads_coroutine_deletes_its_chunks():
    async def run(name):
        async with AsyncClient(name) as client:
            await client.put("other", b"")
            upload = client.put_large("big", VALUE)
            waits_for = upload.send(None)
            while chunks(store) < 4:
                waits_for._asyncio_future_blocking = False
                await asyncio.sleep(0)
                if waits_for.done():
                    waits_for = upload.send(None)
            upload.close()

    store = ScriptedStore()
    with store.node() as node:
        asyncio.run(run(node.name))
    assert store.records.keys() == {hash_key("other")}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_upload_deletes_its_chunks(interruption):
    def stop(done, total):
        if done > 5000:
            raise interruption

    store = ScriptedStore()
    with store.node() as node, pytest.raises(interruption):
        blocking(node.name, "put_large", "big", VALUE, progress=stop)
    assert store.records == {}


def test_a_second_interruption_ends_the_deletion_of_chunks():
    deletes = iter(range(1000))

    def stop(done, total):
        if done > 5000:
            raise KeyboardInterrupt

    def again(request):
        if request.op == Op.DELETE and next(deletes) == 2:
            signal.raise_signal(signal.SIGINT)

    store = ScriptedStore(again)
    with store.node() as node, pytest.raises(KeyboardInterrupt):
        blocking(node.name, "put_large", "big", VALUE, progress=stop)
    (upload,) = journal(store)
    assert upload.version == 0


# --- A journal that somebody else wrote --------------------------------------------------


def plant(store: ScriptedStore, uploads: list[Upload]) -> None:
    store.records[hash_key(journal_name(KEY))] = Record(7, 0, 0, pack_journal(uploads))


@pytest.mark.parametrize("method", ["delete_large", "put_large"])
def test_a_planted_journal_costs_few_requests(ask, method):
    """One PUT of 1,072 bytes that names 24 uploads of the greatest size: 6.3 million chunks that are not there."""
    store = ScriptedStore()
    plant(store, [Upload(bytes([number]) * 16, 1, 0, _manifest.MAX_CHUNKS) for number in range(MAX_UPLOADS)])
    with store.node() as node:
        ask(node.name, method, "big", *([VALUE] if method == "put_large" else []))
        if method == "put_large":
            assert ask(node.name, "get_large", "big") == VALUE
    assert sum(store.asked.values()) < MAX_UPLOADS * 2 * _journal.ABSENT_IN_A_ROW
    assert store.asked[Op.DELETE] <= 2, "the key and its journal"


def test_a_planted_journal_deletes_no_chunks_of_another_key(ask):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "other", VALUE)
        other = Manifest.parse(store.value("other"))
        plant(store, [Upload(other.upload, 1, 0, other.chunks)])
        ask(node.name, "delete_large", "big")
        assert ask(node.name, "get_large", "other") == VALUE


def test_a_planted_future_version_cancels_no_upload(ask):
    store = ScriptedStore()
    plant(store, [Upload(bytes(16), 1, 0, 1, 2**63)])
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        assert ask(node.name, "get_large", "big") == VALUE


@pytest.mark.parametrize("left", [1, 300, 700])
def test_an_upload_whose_deletion_was_cut_short_is_found_again(ask, left):
    """Deletions begin with the last chunk."""
    size = 800
    store = ScriptedStore()
    upload = Upload(bytes([9]) * 16, 1, 0, size)
    stored = list(cut(bytes(size * CHUNK_SIZE), KEY, upload.id, CHUNK_SIZE))
    for number, chunk in enumerate(stored[:left]):
        if number % 100 != 50:  # a writer's requests end in any order
            store.records[hash_key(chunk_name(upload.id, number))] = Record(7, 0, 0, chunk)
    plant(store, [upload])
    with store.node() as node:
        ask(node.name, "delete_large", "big")
    assert store.records == {}


def test_an_interrupted_deletion_leaves_the_first_chunks(ask):
    deleted = []

    def fail_later(request):
        if request.op == Op.DELETE and request.key != KEY:
            deleted.append(request.key)
            return [refusal(request, Status.BAD_REQUEST)] if len(set(deleted)) > 150 else None
        return None

    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE * 15)
        (upload,) = journal(store)
        store.before = fail_later
        ask(node.name, "delete_large", "big")
        assert hash_key(chunk_name(upload.id, 0)) in store.records
        store.before = lambda request: None
        ask(node.name, "delete_large", "big")
    assert store.records == {}


def test_errors_name_the_users_key(ask):
    store = ScriptedStore(
        lambda request: [refusal(request, Status.BAD_REQUEST)] if request.op == Op.PUT else None
    )
    with store.node() as node, pytest.raises(RequestError, match="put 'big', the journal of its uploads: "):
        ask(node.name, "put_large", "big", VALUE)
    puts = iter(range(1000))
    store.before = lambda request: (
        [refusal(request, Status.BAD_REQUEST)] if request.op == Op.PUT and next(puts) else None
    )
    with store.node() as node, pytest.raises(RequestError, match=r"put 'big', chunk \d+ of 21: "):
        ask(node.name, "put_large", "big", VALUE)
    store.before = lambda request: None
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        manifest = hash_key("big")
        store.before = lambda request: (
            [refusal(request, Status.BAD_REQUEST)] if request.key != manifest else None
        )
        with pytest.raises(RequestError, match=r"get 'big', chunk \d+ of 21: "):
            ask(node.name, "get_large", "big")


def test_chunks_of_a_value_with_a_ttl_expire_too(ask):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE, ttl=60)
        with pytest.raises(ValueError, match="TTL"):
            ask(node.name, "put_large", "big", VALUE, ttl=0)
    ttls = {key: record.ttl for key, record in store.records.items()}
    assert ttls.pop(KEY) == 60
    assert _large.OUTLIVES < ttls.pop(hash_key(journal_name(KEY))) <= 60 + _large.OUTLIVES
    assert set(ttls.values()) == {60 + _large.OUTLIVES}


def test_a_value_replaced_during_a_read_is_read_again(ask):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE * 5)  # more than one window
        raced = []

        def replace(done, total):
            if not raced and done:
                raced.append(blocking(node.name, "put_large", "big", OTHER))

        assert ask(node.name, "get_large", "big", progress=replace) == OTHER


def damage(store: ScriptedStore, number: int, change) -> None:
    upload = Manifest.parse(store.value("big")).upload
    key = hash_key(chunk_name(upload, number))
    record = store.records.pop(key)
    if change:
        store.records[key] = record._replace(value=change(record.value))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (None, "chunk 3 of 21 is not there"),
        (lambda value: value[:-1], "chunk 3 of 21 belongs to another upload"),
        (lambda value: b"\0" + value[1:], "chunk 3 of 21 belongs to another upload"),
        (lambda value: value[:-1] + bytes([value[-1] ^ 1]), "digest"),
    ],
)
def test_a_value_with_a_damaged_chunk_is_an_error(ask, change, why):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        damage(store, 3, change)
        with pytest.raises(RequestError, match=why):
            ask(node.name, "get_large", "big")


def test_an_upload_to_a_silent_cluster_fails():
    puts = iter(range(1000))
    store = ScriptedStore(lambda request: drop(None, request) if next(puts) > 10 else None)
    with store.node() as node, Client(node.name, timeout=0.1) as client, pytest.raises(RequestTimeout):
        client.put_large("big", VALUE)
    assert chunks(store) <= 10


def test_chunks_that_cannot_be_deleted_now_are_no_failure(ask):
    """The new value stands; the old chunks are named, and the next write deletes them."""
    refused = {Op.DELETE}
    store = ScriptedStore(
        lambda request: [refusal(request, Status.BAD_REQUEST)] if request.op in refused else None
    )
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        ask(node.name, "put_large", "big", OTHER)
        assert ask(node.name, "get_large", "big") == OTHER
        assert chunks(store) == 21 + 3
        refused.clear()
        ask(node.name, "put_large", "big", OTHER)
    assert chunks(store) == 3


# --- Bytes


MANIFEST = Manifest(5000, CHUNK_SIZE, bytes(range(16)), bytes(range(32)))


def test_manifests_and_journals_have_fixed_bytes():
    assert Manifest.parse(MANIFEST.pack()) == MANIFEST
    assert MANIFEST.pack()[:8] == b"KDHTLV01"
    uploads = [Upload(bytes(16), 1, 2, 3), Upload(bytes(range(16)), 4, 0, 5, 6)]
    assert parse_journal(pack_journal(uploads)) == uploads


@pytest.mark.parametrize("pack", [MANIFEST.pack, lambda: pack_journal([Upload(bytes(16), 1, 2, 3)])])
def test_damaged_manifests_and_journals_are_not_recognised(pack):
    good = pack()
    bad = [good[:length] for length in range(len(good))] + [good + b"\0"]
    bad += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(len(good))]
    for each in bad:
        assert Manifest.parse(each) is None
        assert parse_journal(each) == []


@pytest.mark.parametrize(
    "change",
    [{"size": MAX_LARGE + 1}, {"size": 2**64 - 1}, {"chunk_size": 0}, {"chunk_size": CHUNK_SIZE + 1}, {"chunk_size": 1, "size": MAX_LARGE}],
)  # fmt: skip
def test_impossible_manifests_are_not_recognised(change):
    assert Manifest.parse(MANIFEST._replace(**change).pack()) is None


def test_impossible_journals_name_no_upload():
    assert parse_journal(pack_journal([Upload(bytes(16), 1, 2, _manifest.MAX_CHUNKS + 1)])) == []
