"""Signed and immutable values through both clients: written, read, and checked whatever nodes say."""

import pytest
from scripted_node import ScriptedNode, refusal, reply_to
from scripted_store import ScriptedStore
from signing import KEY, PLAIN, SEED, forgeries, signed

from kdht import Client
from kdht.client import NO_VALUE, SigningKey
from kdht.errors import Conflict, NotFound, RequestError, Unconfirmed, ValueTooLarge
from kdht.wire import Record, hash_key
from kdht.wire._shared import Op, Status
from kdht.wire.certified import CERTIFIED, IMMUTABLE, check_certified, immutable_key, signed_key

pytestmark = pytest.mark.usefixtures("short_waits")

PEN = SigningKey(SEED)
PUBLIC = signed().public_key


# --- Writing and reading


def test_an_immutable_value_is_put_and_read(ask):
    store = ScriptedStore()
    with store.node() as node:
        key = ask(node.name, "put_immutable", PLAIN, ttl=60)
        assert ask(node.name, "put_immutable", bytearray(PLAIN), ttl=60) == key == immutable_key(PLAIN)
        assert ask(node.name, "get_immutable", key) == PLAIN
        assert ask(node.name, "get_immutable", key, quorum=True) == PLAIN
        with pytest.raises(NotFound):
            ask(node.name, "get_immutable", bytes(20))
    assert store.records[key].flags == IMMUTABLE


@pytest.mark.parametrize("value", [b"bytes", "text", 7, [1, b"two"], {b"a": {b"b": []}}])
@pytest.mark.parametrize("salt", [b"", "a salt"])
def test_a_signed_value_is_put_and_read(ask, salt, value):
    store = ScriptedStore()
    with store.node() as node:
        seq = ask(node.name, "put_signed", PEN, value, salt=salt, ttl=60)
        record = ask(node.name, "get_signed", PUBLIC, salt=salt)
    expected = value.encode() if isinstance(value, str) else value
    assert record == (expected, seq, 60)
    key = signed_key(PUBLIC, salt.encode() if isinstance(salt, str) else salt)
    stored = store.records[key]
    check_certified(key, stored.version, stored.flags, stored.value)


def test_the_seq_is_given_or_the_time_and_grows(ask):
    store = ScriptedStore()
    with store.node() as node:
        assert ask(node.name, "put_signed", PEN, b"1", seq=7) == 7
        for seq in (7, 6):
            with pytest.raises(Conflict, match="the key has seq 7") as caught:
                ask(node.name, "put_signed", PEN, b"2", seq=seq)
            assert caught.value.version == CERTIFIED + 7
        now = ask(node.name, "put_signed", PEN, b"3")
        assert now > 1_700_000_000_000_000
        assert ask(node.name, "put_signed", PEN, b"4", seq=now + 3_600_000_000) == now + 3_600_000_000
        assert ask(node.name, "put_signed", PEN, b"5") == now + 3_600_000_001, (
            "above one that is ahead of the time"
        )


def test_no_nodes_word_makes_a_key_sign_a_great_seq(ask):
    """Else nobody could write it again."""
    lie = Record(2**64 - 1).pack()
    store = ScriptedStore(
        lambda request: [refusal(request, Status.BAD_VERSION, body=lie)] if request.op is Op.PUT else None
    )
    with store.node() as node, pytest.raises(Conflict):
        ask(node.name, "put_signed", PEN, b"value")
    assert store.asked[Op.PUT] == 3
    assert store.records == {}


def test_a_signed_value_is_written_on_condition(ask):
    store = ScriptedStore()
    with store.node() as node:
        assert ask(node.name, "put_signed", PEN, b"1", seq=5, if_seq=NO_VALUE) == 5
        assert ask(node.name, "put_signed", PEN, b"2", seq=6, if_seq=5) == 6
        for wrong in (NO_VALUE, 5, 7):
            with pytest.raises(Conflict, match="the key has seq 6"):
                ask(node.name, "put_signed", PEN, b"3", if_seq=wrong)


@pytest.mark.parametrize("length", [996, 997])
def test_a_signed_value_has_at_most_1000_bytes(ask, length):
    with ScriptedStore().node() as node:
        if length == 996:
            ask(node.name, "put_signed", PEN, bytes(length))
        else:
            with pytest.raises(ValueTooLarge, match="at most 1000 bytes"):
                ask(node.name, "put_signed", PEN, bytes(length))


@pytest.mark.parametrize(("method", "arguments", "options"), [
    ("put_signed", (PEN, b""), {"salt": bytes(65)}),
    ("put_signed", (PEN, b""), {"seq": -1}),
    ("put_signed", (PEN, b""), {"seq": 2**63}),
    ("put_signed", (PEN, b""), {"if_seq": -2}),
    ("put_signed", (PEN, b""), {"ttl": 0}),
    ("put_signed", (PEN, 1.5), {}),
    ("get_signed", (bytes(31),), {}),
    ("get_signed", ("text",), {}),
    ("get_signed", (bytes(32),), {"salt": bytes(65)}),
    ("get_immutable", (bytes(19),), {}),
    ("put_immutable", (bytes(1105),), {}),
    ("put_immutable", ("text",), {}),
])  # fmt: skip
def test_impossible_arguments_are_refused_before_anything_is_sent(ask, method, arguments, options):
    store = ScriptedStore()
    with store.node() as node, pytest.raises((TypeError, ValueError)):
        ask(node.name, method, *arguments, **options)
    assert not store.asked


def test_a_lost_answer_leaves_a_signed_write_in_doubt_or_done(ask):
    lost = []

    def before(request):
        if request.op is Op.PUT and not lost:
            lost.append(store.carry_out(request))
            return []
        return None

    store = ScriptedStore(before)
    with store.node() as node:
        assert ask(node.name, "put_signed", PEN, b"1", seq=5) == 5
        lost.clear()
        store.records.clear()
        store.records[signed_key(PUBLIC)] = Record(
            signed(9, salt=b"").version, 0, signed(9, salt=b"").flags, signed(9, salt=b"").value
        )
        with pytest.raises((Conflict, Unconfirmed)):
            ask(node.name, "put_signed", PEN, b"1", seq=5)


# --- Lying nodes


def lying_once(record: Record, truth: Record | None, op: Op = Op.GET):
    """A store of which the first replica asked lies."""
    lies = []

    def before(request):
        if request.op == op and not lies:
            lies.append(request)
            return [reply_to(request, body=record.pack())]
        return None

    store = ScriptedStore(before)
    if truth is not None:
        store.records[KEY] = truth
    return store


def record_of(stored) -> Record:
    return Record(stored.version, 0, stored.flags, stored.value)


TRUTH = Record(signed(5).version, 0, signed(5).flags, signed(5).value)
LIES = {name: record_of(stored) for name, stored in forgeries().items()} | {
    "an ordinary value": Record(7, 0, 0, b"lie")
}


@pytest.mark.parametrize("what", LIES)
@pytest.mark.parametrize("quorum", [False, True])
def test_a_reader_asks_another_replica_after_a_lie(ask, quorum, what):
    store = lying_once(LIES[what], TRUTH, Op.QUORUM_GET if quorum else Op.GET)
    with store.node() as node:
        assert ask(node.name, "get_signed", PUBLIC, salt=b"salt", quorum=quorum) == (b"value", 5, 0)


@pytest.mark.parametrize("what", LIES)
def test_a_reader_is_given_no_lie_if_all_replicas_lie(ask, what):
    liar = ScriptedNode(lambda _node, request: [reply_to(request, body=LIES[what].pack())])
    with liar as node, pytest.raises(RequestError, match=f"get {KEY.hex()}: a node gave a record"):
        ask(node.name, "get_signed", PUBLIC, salt=b"salt", client_options={"attempts": 4})


def test_a_reader_never_goes_back_to_a_lower_seq():
    old = Record(signed(4, "old").version, 0, signed(4, "old").flags, signed(4, "old").value)
    store = ScriptedStore()
    store.records[KEY] = TRUTH
    with store.node() as node, Client(node.name, timeout=1.0, attempts=4) as client:
        assert client.get_signed(PUBLIC, salt=b"salt").seq == 5
        store.records[KEY] = old
        with pytest.raises(Unconfirmed, match="only an older record"):
            client.get_signed(PUBLIC, salt=b"salt")


@pytest.mark.parametrize("record", [Record(2**64 - 1, 0, 0, b"lie"), Record(CERTIFIED, 0, IMMUTABLE, b"lie"),
                                    Record(CERTIFIED + 5, 0, signed(5).flags, signed(5).value)])  # fmt: skip
def test_an_ordinary_read_believes_no_certified_version_without_a_certificate(ask, record):
    truth = Record(7, 0, 0, b"truth")
    store = lying_once(record, None)
    store.records[hash_key("k")] = truth
    with store.node() as node:
        assert ask(node.name, "get", "k") == b"truth"
        assert ask(node.name, "put", "k", b"next") < 2**63


@pytest.mark.parametrize("status", [Status.BAD_VERSION, Status.NOT_FOUND])
def test_a_lie_about_the_version_does_not_move_a_clients_clock(status):
    lies = []

    def before(request):
        wanted = Op.PUT if status is Status.BAD_VERSION else Op.GET
        if request.op is wanted and not lies:
            lies.append(request)
            return [refusal(request, status, body=Record(2**64 - 1).pack())]
        return None

    store = ScriptedStore(before)
    with store.node() as node, Client(node.name, timeout=1.0) as client:
        if status is Status.NOT_FOUND:
            with pytest.raises(NotFound):
                client.get("k")
        assert client.put("k", b"1") < 2**60
        assert client.put("other", b"1") < 2**60


def test_a_watch_tells_no_lie():
    answers = [Record(2**64 - 1, 0, 0, b"lie"), Record(7, 0, 0, b"truth")]

    def react(_node, request):
        return [reply_to(request, body=answers[min(len(_node.seen) - 1, 1)].pack())]

    with ScriptedNode(react) as node, Client(node.name, timeout=1.0) as client:
        events = client.watch("k")
        assert next(events).value == b"truth"
        events.close()


# --- Keys in files


def test_a_signing_key_comes_back_from_its_file(tmp_path):
    PEN.save(tmp_path / "pen")
    assert (tmp_path / "pen").stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(tmp_path / "pen").secret == SEED
    assert SigningKey.load(tmp_path / "pen").public_key == PUBLIC
    assert repr(PEN) == "<SigningKey>", "never in a log"
