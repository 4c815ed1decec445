"""gRPC requests as bytes: one HTTP/2 HEADERS frame and one DATA frame, for bench/c/tcp_ask.c, which writes the stream's number.

RFC 9113 (frames), RFC 7541 (header fields, here literals without an index and without Huffman's code), and gRPC's "PROTOCOL-HTTP2".
"""

import struct

DATA, HEADERS = 0, 1
END_STREAM, END_HEADERS = 1, 4
POST, HTTP = b"\x83", b"\x86"
"""In HPACK's static table."""
AUTHORITY, PATH, CONTENT_TYPE = b"\x01", b"\x04", b"\x0f\x10"
"""Literals with a name of the static table."""
NEW_NAME = b"\x00"
# HPACK's strings need a length of several bytes from there on.
MOST = 126

Fields = dict[int, int | bytes]


def request(path: str, fields: Fields) -> bytes:
    """A call of the method at `path` with this protobuf message."""
    message = b"".join(_field(number, value) for number, value in fields.items())
    headers = POST + HTTP + PATH + _string(path.encode()) + AUTHORITY + _string(b"localhost")
    headers += CONTENT_TYPE + _string(b"application/grpc") + NEW_NAME + _string(b"te") + _string(b"trailers")
    body = struct.pack(">BI", 0, len(message)) + message
    return _frame(HEADERS, END_HEADERS, headers) + _frame(DATA, END_STREAM, body)


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + bytes(4) + payload


def _string(text: bytes) -> bytes:
    assert len(text) <= MOST
    return bytes((len(text),)) + text


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*found, value))
