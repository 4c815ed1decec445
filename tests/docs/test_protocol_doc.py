"""docs/protocol.md says what is so: its examples run, its tables and diagrams match the code."""

import doctest
import hashlib
import re
import socket
import threading

import pytest
from paths import ROOT

from kdht import wire
from kdht.wire import Message, Record
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Status

DOCUMENT = ROOT / "docs/protocol.md"
TEXT = DOCUMENT.read_text()


def table_rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    section = TEXT.split(f"## {heading}\n", 1)[1]
    table = re.search(r"^\|[-|]+\|\n((?:\|.*\|\n)+)", section, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


@pytest.fixture
def ten_line_get():
    """The function that the document shows, from the document."""
    block = re.search(r"<!-- ten-line-get -->\n```python\n(.*?)```", TEXT, re.DOTALL)[1]
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 10
    imports = {line.split()[1] for line in lines if re.match(r"\s*(import|from)\b", line)}
    assert imports == {"socket", "struct"}
    names: dict[str, object] = {}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    return names["get"]


def answer_once(node: socket.socket, values: dict[bytes, bytes], seen: list[bytes]) -> None:
    """Be a node for one GET: strict about the request, and answering from `values`."""
    data, client = node.recvfrom(65536)
    seen.append(data)
    request = wire.parse(data)
    value = values.get(request.key)
    reply = Message(
        op=request.op,
        key=request.key,
        request_id=request.request_id,
        flags=Flag.REPLY | Flag.FORWARDED,
        status=Status.OK if value is not None else Status.NOT_FOUND,
        body=b"" if value is None else Record(1, 0, 0, value).pack(),
    )
    node.sendto(reply.pack(), client)


def test_the_examples_run():
    results = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert results.attempted > 20
    assert results.failed == 0


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"hello", b"world"), (b"empty", b""), (b"large", bytes(shared.MAX_VALUE)), (b"none", None)],
)
def test_ten_lines_get_a_value(ten_line_get, family, host, name, expected):
    def key_of(name: bytes) -> bytes:
        return hashlib.blake2b(name, digest_size=20).digest()

    values = {key_of(b"hello"): b"world", key_of(b"empty"): b"", key_of(b"large"): bytes(shared.MAX_VALUE)}
    seen: list[bytes] = []
    with socket.socket(family, socket.SOCK_DGRAM) as node:
        node.bind((host, 0))
        node.settimeout(30)
        thread = threading.Thread(target=answer_once, args=(node, values, seen))
        thread.start()
        value = ten_line_get(key_of(name), host, node.getsockname()[1], timeout=30)
        thread.join()
    assert value == expected
    padded = Message(op=Op.GET, key=key_of(name), request_id=1, body=bytes(shared.MAX_BODY))
    assert seen == [padded.pack()]


def test_the_field_table_is_the_shared_header():
    rows = [(int(offset), int(size)) for offset, size, *_ in table_rows("The header")]
    assert rows == [(offset, size) for _, offset, size in shared.LAYOUT]
    names = [row[2].replace(" ", "_") for row in table_rows("The header")]
    same = {"body_length": "body_len", "client_address": "client_ip", "entry_address": "entry_ip"}
    assert [same.get(name, name) for name in names] == [name.rstrip("12") for name, _, _ in shared.LAYOUT]


def test_the_op_table_is_complete():
    rows = [row[0].replace("`", "").split() for row in table_rows("Ops")]
    assert [(name, int(number, 16)) for number, name in rows] == [(op.name, op.value) for op in Op]


def test_the_status_table_is_complete():
    rows = [(name, int(number)) for number, name, *_ in table_rows("Statuses")]
    assert rows == [(status.name, status.value) for status in Status]


@pytest.mark.parametrize(
    ("limit", "number"),
    [
        ("value", shared.MAX_VALUE),
        ("body", shared.MAX_BODY),
        ("datagram", shared.MAX_DATAGRAM),
        ("hops", shared.HOP_LIMIT),
        ("contacts in a FIND_NODE reply", shared.K),
        ("replay window", shared.REPLAY_WINDOW),
        ("cookie", 1 << shared.COOKIE_SLOT_BITS),
    ],
)
def test_the_limits_are_the_shared_ones(limit, number):
    said = dict(table_rows("Limits"))[limit]
    assert int(re.match(r"\d+", said)[0]) == number
