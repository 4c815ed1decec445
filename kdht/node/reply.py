"""From a request that ended here to the datagram that answers it: the core makes it (kdht/core/_reply.pyx)."""

import struct

from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.wire import FIELD, OFFSET
from kdht.wire._shared import MAX_BODY, Flag, Status
from kdht.wire.addresses import MAPPED

_FLAGS = OFFSET["flags"]
_CLIENT = OFFSET["client_port"]
_CLIENT_IP = FIELD["client_ip"]
_ENTRY = OFFSET["entry_ip"]
_REQUEST_ID = OFFSET["request_id"]
_STATUS = OFFSET["status"]
_U16 = struct.Struct(">H")
_TOO_MUCH = bytes(MAX_BODY)


class Replier:
    """Makes replies with a node's core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def reply(self, request: Datagram, status: Status, body: bytes, now: int) -> Outgoing:
        """The answer, or a refusal in its place if `body` is more than the client may be sent."""
        data, target, source = self._core.reply(request, status, body, now)
        return Outgoing(data, target, source)

    def refusal(self, request: Datagram, size: int, now: int) -> Status:
        """Why a body of `size` bytes, more than `max_reply`, may not go to the client."""
        data, _, _ = self._core.reply(request, Status.OK, _TOO_MUCH[:size], now)
        return Status(data[_STATUS])

    def address_of(self, request: Datagram) -> bytes:
        """Who asks: its address, or its network of 64 bits, in which an IPv6 host may take any."""
        data = request.data
        ip = data[_CLIENT_IP] if data[_FLAGS] & Flag.FORWARDED else request.source.ip
        # An IPv6 host has 2^64 addresses. A limit for each would be no limit.
        return ip if ip[:12] == MAPPED else ip[:8]

    def client_of(self, request: Datagram) -> bytes:
        """Who asks, and with which request, as bytes to compare."""
        data = request.data
        request_id = data[_REQUEST_ID : _REQUEST_ID + 8]
        if data[_FLAGS] & Flag.FORWARDED:
            return data[_CLIENT:_ENTRY] + request_id
        return _U16.pack(request.source.port) + request.source.ip + request_id
