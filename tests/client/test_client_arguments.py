"""What users hand to a client: bytes in any form are stored whole, and what cannot be is refused before anything is sent."""

import array
import io
import os
import re
import subprocess
import sys
from fractions import Fraction

import pytest
from paths import ROOT
from scripted_store import ScriptedStore

from kdht import AsyncClient, Client
from kdht.client import _calls as calls
from kdht.client import _sources
from kdht.client._arguments import MAX_TIMEOUT
from kdht.errors import ConfigError, ValueTooLarge
from kdht.wire import hash_key

NUMBERS = array.array("I", range(1, 101))
PLAIN = NUMBERS.tobytes()
FORMS = {
    "array": (NUMBERS, PLAIN),
    "bytearray": (bytearray(PLAIN), PLAIN),
    "items of 4 bytes": (memoryview(NUMBERS), PLAIN),
    "doubles": (memoryview(array.array("d", [1.5, 2.5])), array.array("d", [1.5, 2.5]).tobytes()),
    "every second item": (memoryview(NUMBERS)[::2], NUMBERS[::2].tobytes()),
    "backwards": (memoryview(PLAIN)[::-1], PLAIN[::-1]),
    "two dimensions": (memoryview(PLAIN).cast("B", (20, 20)), PLAIN),
}


@pytest.mark.parametrize("form", FORMS)
def test_bytes_in_any_form_are_stored_whole(ask, form):
    given, plain = FORMS[form]
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put", "small", given)
        assert store.value("small") == plain
        ask(node.name, "put_many", {"many": given})
        assert store.value("many") == plain
        ask(node.name, "put_large", "large", given)
        assert ask(node.name, "get_large", "large") == plain


def test_a_large_value_of_wide_items_is_stored_whole(ask):
    numbers = array.array("Q", range(5000))
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "large", b"what stood before" * 100)
        ask(node.name, "put_large", "large", memoryview(numbers))
        assert ask(node.name, "get_large", "large") == numbers.tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_key_in_any_form_is_its_bytes(ask, form):
    given, plain = FORMS[form]
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put", given, b"1")
        assert ask(node.name, "get", plain) == b"1"
        assert ask(node.name, "get_many", [given]) == {plain: b"1"}
        assert ask(node.name, "delete", given)
        ask(node.name, "put_large", given, b"2")
        assert ask(node.name, "get_large", plain) == b"2"
    assert hash_key(plain) in store.records


def test_wide_items_count_by_their_bytes(ask, monkeypatch):
    store = ScriptedStore()
    with store.node() as node:
        with pytest.raises(ValueTooLarge, match="this one has 1200"):
            ask(node.name, "put", "k", memoryview(array.array("I", range(300))))
        with pytest.raises(ValueTooLarge, match="conditional put has at most 1096 bytes"):
            ask(node.name, "put", "k", bytes(1097), if_version=0)
        monkeypatch.setattr(_sources, "MAX_LARGE", 1 << 20)
        with pytest.raises(ValueTooLarge, match=r"at most \d+ bytes"):
            ask(node.name, "put_large", "k", memoryview(bytes((1 << 20) + 8)).cast("Q"))
    assert not store.asked


class Drops(io.RawIOBase):
    """A file without a buffer, such as a pipe: it gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def read(self, size=-1):
        part, self.left = self.left[:1000], self.left[1000:]
        return part


def test_a_file_is_read_to_its_end(ask):
    data = bytes(range(256)) * 30
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "k", Drops(data))
        assert ask(node.name, "get_large", "k") == data


def without_address(value):
    """A test's name for an argument, the same in every process."""
    return re.sub(" at 0x[0-9a-f]+", "", str(value))


class Empty(io.RawIOBase):
    def read(self, size=-1):
        return None


@pytest.mark.parametrize(
    ("method", "args", "error", "text"),
    [
        (
            "put",
            ["k", "text"],
            TypeError,
            "a value is bytes, a bytearray or a memoryview, not str: encode it",
        ),
        ("put", ["k", 5], TypeError, "not int"),
        ("put", ["k", None], TypeError, "not NoneType"),
        ("put_large", ["k", "text"], TypeError, "a large value is bytes.*not str"),
        ("put_large", ["k", 5], TypeError, "not int"),
        ("put_large", ["k", io.StringIO("text")], TypeError, 'open it with "rb"'),
        ("put_large", ["k", Empty()], BlockingIOError, "blocking mode"),
        ("put_many", [{"k": "text"}], TypeError, "not str"),
        ("get", [5], TypeError, "a key is a str or bytes, not int"),
        ("get", [None], TypeError, "a key is a str or bytes"),
        ("get", ["\udc80"], ValueError, "has none"),
        ("put", ["\udc80", b""], ValueError, "has none"),
        ("put_large", [5, b""], TypeError, "a key is a str or bytes"),
        ("delete", [5], TypeError, "a key is a str or bytes"),
        ("get_large", [5], TypeError, "a key is a str or bytes"),
        ("delete_large", [5], TypeError, "a key is a str or bytes"),
        ("get_many", [["a", 5]], TypeError, "a key is a str or bytes"),
    ],
    ids=without_address,
)
def test_objects_without_a_buffer_are_refused_before_sending(ask, method, args, error, text):
    store = ScriptedStore()
    with store.node() as node, pytest.raises(error, match=text):
        ask(node.name, method, *args)
    assert store.asked.total() <= (method == "get_many")


@pytest.mark.parametrize("max_value", [1.5, "7", None])
def test_max_value_must_be_a_whole_number(ask, max_value):
    store = ScriptedStore()
    with store.node() as node, pytest.raises(TypeError, match="max_value is a whole number from 0 to 1104"):
        ask(node.name, "get", "k", max_value=max_value)
    assert not store.asked


@pytest.mark.parametrize(("window", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
@pytest.mark.parametrize(("method", "args"), [("get_many", [["k"]]), ("put_many", [{"k": b""}])])
def test_impossible_windows_are_refused(ask, window, error, method, args):
    store = ScriptedStore()
    with store.node() as node, pytest.raises(error, match="window"):
        ask(node.name, method, *args, window=window)
    assert not store.asked


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), float("-inf"), 1e10, 0, -1, MAX_TIMEOUT + 1])
def test_impossible_timeouts_are_refused(kind, timeout):
    with pytest.raises(ValueError, match=r"timeout is a number of seconds above 0, at most 86400") as caught:
        kind("127.0.0.1", timeout=timeout)
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"timeout": "5"}, "timeout is a number of seconds, not str"),
        ({"timeout": None}, "timeout"),
        ({"attempts": 1.5}, "attempts is a whole number"),
        ({"attempts": "3"}, "attempts is a whole number"),
    ],
    ids=str,
)
def test_limits_must_be_numbers(kind, limits, text):
    with pytest.raises(TypeError, match=text):
        kind("127.0.0.1", **limits)


@pytest.mark.parametrize("timeout", [MAX_TIMEOUT, 1, Fraction(1, 2)])
def test_possible_timeouts_are_taken(ask, timeout):
    store = ScriptedStore()
    with store.node() as node, Client(node.name, timeout=timeout) as client:
        client.put("k", b"1")
        assert client.get("k") == b"1"


def test_other_integer_types_count_as_int():
    class Seven:
        def __index__(self) -> int:
            return 7

    assert calls.get("k", Seven()).max_reply == calls.get("k", 7).max_reply


TYPED = """
from kdht import AsyncClient, Client

def blocking(client: Client, values: dict[str, bytes], others: dict[bytes, bytearray]) -> None:
    versions: dict[str, int] = client.put_many(values)
    more: dict[bytes, int] = client.put_many(others)
    found: dict[str, bytes] = client.get_many(list(values))
    client.put("k", memoryview(b""))

async def in_a_loop(client: AsyncClient, values: dict[str, bytes]) -> None:
    versions: dict[str, int] = await client.put_many(values)
    found: dict[str, bytes] = await client.get_many(values)
"""


def test_the_types_take_a_dict_of_text_or_of_bytes(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    options = ["--strict", "--config-file", os.devnull, "--follow-imports", "silent"]
    command = [sys.executable, "-m", "mypy", *options, str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
