"""Sealed values: nodes see nothing of them, and what they alter, swap or date anew does not open."""

import pytest
from scripted_node import reply_to
from scripted_store import ScriptedStore

from kdht import Client
from kdht.client import SealKey, SigningKey
from kdht.client._seal import MAGIC
from kdht.errors import ConfigError, NotFound, RequestError, ValueTooLarge
from kdht.wire import hash_key
from kdht.wire._shared import MAX_VALUE, Op
from kdht.wire.limits import SEAL_OVERHEAD

pytestmark = pytest.mark.usefixtures("short_waits")

SEAL = SealKey(bytes(range(32)))
OTHER = SealKey(bytes(range(1, 33)))
SEALED = {"seal": SEAL}
KEY = hash_key("k")
SECRET = b"nobody may see this"


def test_a_sealed_value_is_read_by_its_key_alone(ask):
    store = ScriptedStore()
    with store.node() as node:
        version = ask(node.name, "put", "k", SECRET, client_options=SEALED)
        record = ask(node.name, "get_record", "k", client_options=SEALED)
        raw = ask(node.name, "get", "k")
        with pytest.raises(RequestError, match=r"sealed with the key [0-9a-f]+, this client has"):
            ask(node.name, "get", "k", client_options={"seal": OTHER, "attempts": 3})
    assert (record.value, record.version) == (SECRET, version)
    assert raw.startswith(MAGIC)
    assert SECRET not in raw
    assert len(raw) == len(SECRET) + SEAL_OVERHEAD


def test_no_two_sealed_values_look_alike():
    store = ScriptedStore()
    seen = set()
    with store.node() as node, Client(node.name, seal=SEAL) as client:
        for _ in range(5):
            client.put("k", SECRET)
            seen.add(store.records[KEY].value[12:])
    assert len(seen) == 5


@pytest.mark.parametrize("condition", [None, 0])
def test_the_largest_sealed_value(ask, condition):
    store = ScriptedStore()
    most = MAX_VALUE - SEAL_OVERHEAD - (0 if condition is None else 8)
    with store.node() as node:
        ask(node.name, "put", "k", bytes(most), if_version=condition, client_options=SEALED)
        assert ask(node.name, "get", "k", client_options=SEALED) == bytes(most)
        assert ask(node.name, "get", "k", max_value=most, client_options=SEALED) == bytes(most)
        with pytest.raises(ValueTooLarge, match=f"at most {most} bytes"):
            ask(node.name, "put", "k", bytes(most + 1), if_version=condition, client_options=SEALED)


def test_many_sealed_values(ask):
    store = ScriptedStore()
    values = {f"key {number}": b"%d" % number for number in range(20)}
    with store.node() as node:
        ask(node.name, "put_many", values, client_options=SEALED)
        assert ask(node.name, "get_many", values, client_options=SEALED) == values
        with pytest.raises(ValueTooLarge):
            ask(node.name, "put_many", {"a": b"", "b": bytes(MAX_VALUE)}, client_options=SEALED)


def test_a_large_sealed_value_its_journal_and_its_deletion(ask):
    store = ScriptedStore()
    data = bytes(range(256)) * 40
    with store.node() as node:
        ask(node.name, "put_large", "k", data, client_options=SEALED)
        assert all(record.value.startswith(MAGIC) for record in store.records.values())
        assert len(store.records) > 10
        assert ask(node.name, "get_large", "k", client_options=SEALED) == data
        ask(node.name, "put_large", "k", data[:5000], client_options=SEALED)
        assert ask(node.name, "get_large", "k", client_options=SEALED) == data[:5000]
        assert ask(node.name, "delete_large", "k", client_options=SEALED)
        with pytest.raises(NotFound):
            ask(node.name, "get_large", "k", client_options=SEALED)
    left = [record for record in store.records.values() if len(record.value) > 16 + SEAL_OVERHEAD]
    assert left == [], "no chunk is left"


def test_a_large_sealed_value_is_deleted_only_with_its_key(ask):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "k", bytes(5000), client_options=SEALED)
        before = dict(store.records)
        with pytest.raises(RequestError, match="sealed: give the client its key"):
            ask(node.name, "delete_large", "k")
    assert store.records == before


# --- Members with the secret, and disks


def altered(store, changes):
    """A store whose first answer is a lie."""
    lies = []

    def before(request):
        if request.op is Op.GET and len(lies) < changes.get("lies", 1):
            lies.append(request)
            record = changes["record"](store)
            return [reply_to(request, body=record.pack())]
        return None

    store.before = before
    return store


def flipped(value: bytes, at: int) -> bytes:
    changed = bytearray(value)
    changed[at] ^= 1
    return bytes(changed)


LIES = {
    "an altered value": lambda store: store.records[KEY]._replace(value=flipped(store.records[KEY].value, -20)),
    "an altered tag": lambda store: store.records[KEY]._replace(value=flipped(store.records[KEY].value, -1)),
    "another nonce": lambda store: store.records[KEY]._replace(value=flipped(store.records[KEY].value, 20)),
    "another seal's name": lambda store: store.records[KEY]._replace(value=flipped(store.records[KEY].value, 9)),
    "a cut value": lambda store: store.records[KEY]._replace(value=store.records[KEY].value[:-1]),
    "the value of another key": lambda store: store.records[hash_key("other")],
    "an old value under a new version": lambda store: store.old._replace(version=store.records[KEY].version + 1),
    "a plain value": lambda store: store.records[KEY]._replace(value=b"plain"),
}  # fmt: skip


@pytest.mark.parametrize("all_lie", [False, True])
@pytest.mark.parametrize("what", LIES)
def test_a_lie_does_not_open_and_another_replica_is_asked(ask, what, all_lie):
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put", "other", b"other", client_options=SEALED)
        ask(node.name, "put", "k", b"old", client_options=SEALED)
        store.old = store.records[KEY]
        ask(node.name, "put", "k", SECRET, client_options=SEALED)
        altered(store, {"record": LIES[what], "lies": 99 if all_lie else 1})
        if not all_lie:
            assert ask(node.name, "get", "k", client_options=SEALED) == SECRET
            return
        with pytest.raises(RequestError, match="sealed"):
            ask(node.name, "get", "k", client_options=SEALED | {"attempts": 3})


def test_a_write_that_is_given_a_greater_version_is_sealed_anew(ask):
    """The seal covers the version."""
    store = ScriptedStore()
    with store.node() as node:
        ahead = ask(node.name, "put", "k", b"1", client_options=SEALED) + 30_000_000
        store.records[KEY] = store.records[KEY]._replace(version=ahead)
        assert ask(node.name, "put", "k", SECRET, client_options=SEALED) > ahead
        assert ask(node.name, "get", "k", client_options=SEALED) == SECRET


def test_a_watch_opens_sealed_values():
    store = ScriptedStore()
    with store.node() as node, Client(node.name, seal=SEAL) as client:
        client.put("k", SECRET)
        record = store.records[KEY]
        store.before = lambda request: (
            [reply_to(request, body=record.pack())] if request.op is Op.WATCH else None
        )
        events = client.watch("k")
        assert next(events).value == SECRET
        events.close()


@pytest.mark.parametrize("method", ["put_immutable", "put_signed"])
def test_a_client_with_a_seal_neither_signs_nor_hashes(ask, method):
    arguments = (b"value",) if method == "put_immutable" else (SigningKey(bytes(32)), b"value")
    store = ScriptedStore()
    with store.node() as node, pytest.raises(ValueError, match="use another client"):
        ask(node.name, method, *arguments, client_options=SEALED)
    assert not store.asked


# --- Keys in files


def test_a_seal_comes_back_from_its_file(ask, tmp_path):
    SEAL.save(tmp_path / "seal")
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put", "k", SECRET, client_options={"seal": tmp_path / "seal"})
        assert ask(node.name, "get", "k", client_options=SEALED) == SECRET


def test_a_key_file_that_others_may_read_is_warned_about(tmp_path):
    SEAL.save(tmp_path / "seal")
    (tmp_path / "seal").chmod(0o644)
    with pytest.warns(UserWarning, match="can be read by other users: chmod 600"):
        SealKey.load(tmp_path / "seal")


BAD_FILES = {
    "": "is a key for nothing of kdht's, not for sealing",
    "c2VjcmV0": "is a key for nothing of kdht's",
    str(SigningKey(bytes(32))): "is a key for signing, not for sealing",
    str(SEAL)[:-4]: "is damaged",
    str(SEAL).replace("A", "B", 1): "is damaged",
    "kdht-seal1.": "is damaged",
    "kdht-seal1.\u00e9\u00e9": "is damaged",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_file_that_is_no_key_is_said_so(tmp_path, text):
    path = tmp_path / "seal"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=BAD_FILES[text]) as caught:
        SealKey.load(path)
    assert str(path) in str(caught.value)
    assert len(text) < 20 or text not in str(caught.value), "a secret is never told"


def test_a_missing_file_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Client("127.0.0.1", seal=tmp_path / "none")


def test_a_key_never_replaces_a_file(tmp_path):
    SEAL.save(tmp_path / "seal")
    with pytest.raises(ConfigError, match="already exists"):
        OTHER.save(tmp_path / "seal")
