"""Both clients against scripted nodes on loopback: real datagrams, lost, doubled and forged ones."""

import asyncio
import random
import socket
import time

import pytest
from scripted_node import VERSION, ScriptedNode, answer, drop, refusal, refuse, reply_to, value_reply

from kdht import AsyncClient, Client
from kdht.client import Hop, _nodes
from kdht.client._datagram import MAX_ATTEMPTS
from kdht.errors import ConfigError, NotFound, RequestError, RequestTimeout, ValueTooLarge
from kdht.wire import Address, Contact, Record, hash_key, pack_contacts
from kdht.wire import _shared as shared
from kdht.wire._shared import TRY_BITS, Op, Status


def ask_blocking(nodes, *asked, **limits):
    with Client(nodes, **limits) as client:
        return [getattr(client, method)(*args) for method, *args in asked]


def ask_async(nodes, *asked, **limits):
    async def run():
        async with AsyncClient(nodes, **limits) as client:
            return [await getattr(client, method)(*args) for method, *args in asked]

    return asyncio.run(run())


@pytest.fixture(params=[ask_blocking, ask_async], ids=["Client", "AsyncClient"])
def ask(request):
    """Make a client of each kind, call its methods in turn, give their results."""
    return request.param


@pytest.fixture
def short_waits(monkeypatch):
    """A lost datagram on loopback need not take a quarter of a second to be noticed."""
    monkeypatch.setattr(_nodes, "START_RTO", 0.02)
    monkeypatch.setattr(_nodes, "START_LATE", 0.02)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_get(ask, host):
    with ScriptedNode(answer, host=host) as node:
        assert ask(node.name, ("get", "hello"), ("get", b"hello")) == [b"world"] * 2
    for request in node.seen:
        assert (request.op, request.key, request.body) == (Op.GET, hash_key("hello"), b"")
        assert (request.flags, request.hops, request.attempt, request.cookie) == (0, 0, 0, 0)
        assert request.max_reply == shared.MAX_BODY


def test_get_record(ask):
    with ScriptedNode(lambda _, request: [reply_to(request, body=Record(9, 60, 0, b"v").pack())]) as node:
        assert ask(node.name, ("get_record", "hello")) == [Record(9, 60, 0, b"v")]


def test_put(ask):
    with ScriptedNode(lambda _, request: [value_reply(request, b"")]) as node:
        assert ask(node.name, ("put", "hello", b"world"), ("put", "hello", b"", 3600)) == [VERSION] * 2
    first, second = [Record.parse(request.body) for request in node.seen]
    assert first[1:] == (0, 0, b"world")
    assert second[1:] == (3600, 0, b"")
    now = time.time_ns() // 1000
    assert now - 60_000_000 < first.version < second.version <= now


def test_delete(ask):
    with ScriptedNode(refuse(Status.OK), refuse(Status.NOT_FOUND)) as node:
        assert ask(node.name, ("delete", "hello"), ("delete", "hello")) == [True, False]
    assert [request.op for request in node.seen] == [Op.DELETE] * 2


def test_the_largest_value_goes_both_ways(ask):
    largest = bytes(range(256)) * 4 + bytes(shared.MAX_VALUE - 1024)
    with ScriptedNode(lambda _, request: [reply_to(request, body=Record(1, 0, 0, largest).pack())]) as node:
        assert ask(node.name, ("get", "k"), ("put", "k", largest)) == [largest, 1]
    assert Record.parse(node.seen[1].body).value == largest


def test_too_large_values_are_refused_before_sending(ask):
    with (
        ScriptedNode(answer) as node,
        pytest.raises(ValueTooLarge, match="at most 1104 bytes, this one has 1536"),
    ):
        ask(node.name, ("put", "hello", bytes(1536)))
    assert node.seen == []


@pytest.mark.parametrize("ttl", [0, -1, 1.5, 2**32])
def test_impossible_ttls_are_refused_before_sending(ask, ttl):
    with ScriptedNode(answer) as node, pytest.raises(ValueError, match="TTL"):
        ask(node.name, ("put", "hello", b"", ttl))
    assert node.seen == []


def test_max_value_limits_the_answer():
    def refuse_large(_node, request):
        return [refusal(request, Status.TOO_LARGE) if request.max_reply < 100 else value_reply(request)]

    with ScriptedNode(refuse_large) as node, Client(node.name) as client:
        assert client.get("hello", max_value=1000) == b"world"
        with pytest.raises(ValueTooLarge):
            client.get("hello", max_value=10)
        for wrong in (-1, shared.MAX_VALUE + 1):
            with pytest.raises(ValueError, match="max_value"):
                client.get("hello", max_value=wrong)
    # A slow machine makes the client ask again.
    assert list(dict.fromkeys(request.max_reply for request in node.seen)) == [1016, 26]


def test_a_key_without_a_value_raises_not_found(ask):
    with ScriptedNode(refuse(Status.NOT_FOUND)) as node, pytest.raises(NotFound) as caught:
        ask(node.name, ("get", "hello"))
    assert str(caught.value) == "get 'hello': the key has no value"
    assert isinstance(caught.value, KeyError)


@pytest.mark.usefixtures("short_waits")
def test_lost_datagrams_are_repeated(ask):
    with ScriptedNode(drop, drop, drop, answer) as node:
        assert ask(node.name, ("get", "hello")) == [b"world"]
    assert [request.attempt for request in node.seen[:4]] == [0, 1, 2, 3]


@pytest.mark.usefixtures("short_waits")
def test_a_dead_node_is_left_for_another(ask):
    with ScriptedNode(drop) as dead, ScriptedNode(answer) as alive:
        asked = ("get", "hello")
        assert ask([dead.name, alive.name], asked, asked, asked, attempts=16) == [b"world"] * 3
    assert dead.seen
    assert len({request.request_id >> TRY_BITS for request in alive.seen}) == 3


@pytest.mark.usefixtures("short_waits")
def test_a_closed_port_is_left_for_another(ask):
    with ScriptedNode(answer) as alive:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            name = f"127.0.0.1:{gone.getsockname()[1]}"
        assert ask([name, alive.name], ("get", "hello"), ("get", "hello"), attempts=16) == [b"world"] * 2
    assert len({request.request_id >> TRY_BITS for request in alive.seen}) == 2


@pytest.mark.usefixtures("short_waits")
def test_no_answer_is_a_request_timeout(ask):
    with ScriptedNode(drop) as node, pytest.raises(RequestTimeout, match="get 'hello': no answer within"):
        ask(node.name, ("get", "hello"), timeout=0.2, attempts=3)
    assert 1 <= len(node.seen) <= 3


def test_doubled_replies_are_one_answer(ask):
    with ScriptedNode(lambda _, request: [value_reply(request, request.key)] * 3) as node:
        names = [str(number) for number in range(20)]
        assert ask(node.name, *(("get", name) for name in names)) == [hash_key(name) for name in names]


def test_forged_replies_are_ignored(ask):
    def react(_node, request):
        wrong = [
            value_reply(request, b"forged", request_id=request.request_id ^ 1 << 40),
            value_reply(request, b"forged", request_id=request.request_id + 1),
            value_reply(request, b"forged", key=bytes(20)),
            value_reply(request, b"forged", op=Op.PUT),
            value_reply(request, b"forged", flags=request.flags),
            value_reply(request, b"forged")[:-1],
            b"KDHT",
            b"x" * 2000,
        ]
        return [*wrong, value_reply(request)]

    with ScriptedNode(react) as node:
        assert ask(node.name, ("get", "hello")) == [b"world"]


def test_a_reply_from_another_port_is_ignored(ask):
    def react(node, request):
        node.send_from_elsewhere(value_reply(request, b"forged"))
        return [value_reply(request)]

    with ScriptedNode(react) as node:
        assert ask(node.name, ("get", "hello")) == [b"world"]


def test_a_demanded_cookie_is_sent(ask):
    def react(_node, request):
        if request.cookie != 77:
            return [refusal(request, Status.COOKIE_NEEDED, cookie=77)]
        return [value_reply(request, cookie=77)]

    with ScriptedNode(react) as node:
        assert ask(node.name, ("get", "a"), ("get", "b"), ("get", "c")) == [b"world"] * 3
    assert [request.cookie for request in node.seen] == [0, 77, 77, 77]


def test_a_refused_cookie_is_an_error(ask):
    with ScriptedNode(refuse(Status.COOKIE_NEEDED, cookie=77)) as node, pytest.raises(RequestError) as caught:
        ask(node.name, ("get", "hello"))
    assert caught.value.status == "COOKIE_NEEDED"
    assert len(node.seen) == 2


@pytest.mark.usefixtures("short_waits")
def test_a_busy_owner_is_tried_again(ask):
    with ScriptedNode(refuse(Status.BUSY), answer) as node:
        assert ask(node.name, ("get", "hello")) == [b"world"]


@pytest.mark.parametrize("status", [Status.BUSY, Status.UNCONFIRMED])
def test_waits_after_a_refusal_are_shorter_than_after_a_loss(ask, status):
    """A second node takes three seconds to join a first one, and until then writes are UNCONFIRMED."""
    ready_at = time.monotonic() + 2.8

    def refuse_at_first(store, request):
        return (refuse(status) if time.monotonic() < ready_at else answer)(store, request)

    with ScriptedNode(*[refuse_at_first] * 20) as node:
        assert ask(node.name, ("get", "hello"), timeout=4) == [b"world"]
    assert len(node.seen) < 12


def test_failed_disks_everywhere_are_an_error(ask):
    with ScriptedNode(refuse(Status.STORAGE_FAILED)) as node, pytest.raises(RequestError, match="disk"):
        ask(node.name, ("put", "hello", b""), attempts=3)
    assert [request.attempt for request in node.seen] == [0, 1, 2]


@pytest.mark.parametrize(("method", "args"), [("get", []), ("put", [b""])])
def test_an_answer_without_a_record_is_an_error(ask, method, args):
    short = ScriptedNode(lambda _, request: [reply_to(request, body=b"short")])
    with short as node, pytest.raises(RequestError, match="cannot be read"):
        ask(node.name, (method, "hello", *args))


CONTACTS = [Contact(bytes([number]) * 20, Address.of(f"10.0.0.{number}", 0).ip, 5348) for number in (1, 2, 3)]


def on_the_way(_node, request):
    """A way of three nodes, the last of them the owner."""
    status = Status.OK if request.hops == 3 else Status.HOPS_ENDED
    return [reply_to(request, status=status, body=pack_contacts([CONTACTS[request.hops - 1]]))]


def test_trace(ask):
    with ScriptedNode(on_the_way) as node:
        (path,) = ask(node.name, ("trace", "hello"))
    assert [hop.contact for hop in path] == CONTACTS
    assert [hop.owner for hop in path] == [False, False, True]
    assert all(hop.rtt > 0 for hop in path)
    assert [(request.op, request.hops) for request in node.seen] == [(Op.TRACE, n) for n in (1, 2, 3)]


@pytest.mark.usefixtures("short_waits")
def test_a_trace_ends_at_a_silent_node(ask):
    with ScriptedNode(on_the_way, drop) as node:
        (path,) = ask(node.name, ("trace", "hello"), timeout=0.1, attempts=2)
    assert [hop.contact for hop in path] == [CONTACTS[0], None]
    assert path[-1] == Hop(None, None, owner=False)
    assert {request.attempt for request in node.seen} == {0}


def test_a_trace_ends_at_the_limit():
    with ScriptedNode(on_the_way) as node, Client(node.name) as client:
        assert len(client.trace("hello", max_hops=2)) == 2
        assert client.trace("hello", max_hops=0) == []

    def never_there(_node, request):
        return [reply_to(request, status=Status.HOPS_ENDED, body=pack_contacts(CONTACTS[:1]))]

    with ScriptedNode(never_there) as node, Client(node.name) as client:
        assert len(client.trace("hello", max_hops=1000)) == 255


def test_a_trace_answer_without_a_contact_is_an_error(ask):
    with ScriptedNode(refuse(Status.OK)) as node, pytest.raises(RequestError, match="cannot be read"):
        ask(node.name, ("trace", "hello"))


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        ([], "name at least one"),
        ("127.0.0.1:0", "1 to 65535"),
        ("127.0.0.1:http", "1 to 65535"),
        (":5348", "host is missing"),
        ("[::1:5348", "bracket"),
        ("no-such-host.invalid:5348", "'no-such-host.invalid' has no address"),
    ],
)
def test_bad_node_names_raise_config_error(ask, nodes, text):
    with pytest.raises(ConfigError, match=text):
        ask(nodes, ("get", "hello"))


@pytest.mark.parametrize("limits", [{"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"attempts": 0}, {"attempts": MAX_ATTEMPTS + 1}])  # fmt: skip
def test_impossible_limits_raise_config_error(ask, limits):
    with pytest.raises(ConfigError, match=next(iter(limits))):
        ask("127.0.0.1", ("get", "hello"), **limits)


@pytest.mark.usefixtures("short_waits")
def test_names_are_resolved(ask):
    with ScriptedNode(answer) as node:
        port = node.name.rpartition(":")[2]
        assert ask(f"localhost:{port}", ("get", "hello"), attempts=16) == [b"world"]


def test_a_closed_client_raises_request_error():
    with ScriptedNode(answer) as node:
        client = Client(node.name)
        client.close()
        client.close()
        with pytest.raises(RequestError, match="closed"):
            client.get("hello")


# --- Only asyncio ----------------------------------------------------------------------


def test_a_closed_async_client_raises_request_error():
    async def run():
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def react(_node, _request):
            loop.call_soon_threadsafe(arrived.set)
            return []

        with ScriptedNode(react) as node:
            await close_while_waiting(node.name, arrived)

    async def close_while_waiting(name, arrived):
        client = AsyncClient(name)
        waiting = asyncio.create_task(client.get("hello"))
        await arrived.wait()
        await client.close()
        await client.close()
        for failed in (waiting, client.get("hello")):
            with pytest.raises(RequestError, match="closed"):
                await failed

    asyncio.run(run())


@pytest.mark.usefixtures("short_waits")
def test_many_requests_at_once_get_their_own_answers():
    """Replies come in another order, with losses and doubles."""
    rng = random.Random(5348)
    held: list[bytes] = []

    def react(_node, request):
        copies = rng.choice([0, 1, 1, 1, 2])
        held.extend([value_reply(request, request.key)] * copies)
        if len(held) < 5:
            return []
        rng.shuffle(held)
        return [held.pop() for _ in range(len(held))]

    async def run(name):
        async with AsyncClient(name, timeout=60, attempts=16) as client:
            names = [str(number) for number in range(200)]
            assert await client.get_many(names, window=50) == {name: hash_key(name) for name in names}

    with ScriptedNode(react) as node:
        asyncio.run(run(node.name))


def test_get_many_leaves_out_keys_without_a_value():
    def react(_node, request):
        return [value_reply(request) if request.key in there else refusal(request, Status.NOT_FOUND)]

    there = {hash_key("a"), hash_key("c")}

    async def run(name):
        async with AsyncClient(name) as client:
            return await client.get_many(["a", "b", "c"])

    with ScriptedNode(react) as node:
        assert asyncio.run(run(node.name)) == {"a": b"world", "c": b"world"}


def test_put_many_returns_versions():
    async def run(name):
        async with AsyncClient(name) as client:
            return await client.put_many({"a": b"1", "b": b"2"}, ttl=60)

    with ScriptedNode(lambda _, request: [value_reply(request, b"")]) as node:
        assert asyncio.run(run(node.name)) == {"a": VERSION, "b": VERSION}
    assert {Record.parse(request.body).value: Record.parse(request.body).ttl for request in node.seen} == {
        b"1": 60,
        b"2": 60,
    }


def test_the_first_failure_ends_get_many():
    async def run(name):
        async with AsyncClient(name) as client:
            with pytest.raises(RequestError, match="cannot read"):
                await client.get_many([str(number) for number in range(1000)], window=5)
            assert client._driver is not None
            assert client._driver._session._pending == {}

    with ScriptedNode(answer, answer, refuse(Status.BAD_REQUEST), answer) as node:
        asyncio.run(run(node.name))
    assert len(node.seen) < 1000


def test_a_cancelled_request_is_forgotten():
    async def run(name):
        async with AsyncClient(name) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get("hello"), 0.05)
            assert client._driver is not None
            assert client._driver._session._pending == {}
            assert await client.get("hello") == b"world"

    def react(node, request):
        is_first = request.request_id >> TRY_BITS == node.seen[0].request_id >> TRY_BITS
        return [] if is_first else [value_reply(request)]

    with ScriptedNode(react) as node:
        asyncio.run(run(node.name))
