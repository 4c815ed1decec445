"""From a request that ended here to the datagram that answers it.

A client's own request is answered straight, from the address that it was sent to. A
forwarded one is answered, sealed, through its entry node; where the entry address is
this node's own too (anycast, or the request came back), straight as well. What leaves
for a client is byte for byte what an entry node makes of a sealed reply: nothing of the
cluster but a cookie.
"""

import struct
from collections.abc import Iterable

from kdht._routing import Core
from kdht._shared import HEADER_LEN, HOP_LIMIT, MAX_BODY, Flag, Status
from kdht.datapath.base import Datagram, Outgoing
from kdht.wire import OFFSET, Address

_FLAGS = OFFSET["flags"]
_HOPS = OFFSET["hops"]
_STATUS = OFFSET["status"]
_CLIENT = OFFSET["client_port"]
_CLIENT_IP = OFFSET["client_ip"]
_ENTRY = OFFSET["entry_ip"]
_ENTRY_PORT = OFFSET["entry_port"]
_COOKIE = OFFSET["cookie"]
_U16 = struct.Struct(">H")
_U64 = struct.Struct(">Q")
_STATUS_AND_LENGTH = struct.Struct(">BH")
_MAX_REPLY = OFFSET["max_reply"]
_BODY_LEN = OFFSET["body_len"]

_REPLY = Flag.REPLY | Flag.FORWARDED
# A request's header up to here stays in its reply; the rest is zero, or made anew.
_KEPT_FOR_CLIENT = OFFSET["time"]
_KEPT_FOR_ENTRY = OFFSET["max_reply"]
_BLANK_FOR_CLIENT = bytes(HEADER_LEN - _KEPT_FOR_CLIENT)
_BLANK_FOR_ENTRY = bytes(HEADER_LEN - _KEPT_FOR_ENTRY)


class Replier:
    """Makes replies. `own` are all addresses of this node, as the core has them."""

    def __init__(
        self, core: Core, own: Iterable[Address], *, cookies: bool, hop_limit: int = HOP_LIMIT
    ) -> None:
        self._core = core
        self._own = frozenset(ip + _U16.pack(port) for ip, port in own)
        self._cookies = cookies
        self._hop_limit = hop_limit

    def reply(self, request: Datagram, status: Status, body: bytes, now: int) -> Outgoing:
        """The answer, or a refusal in its place if `body` is more than the client may be sent."""
        data = request.data
        if len(body) > request.max_reply:
            status = self.refusal(request, len(body))
            body = b""
        if not data[_FLAGS] & Flag.FORWARDED:
            message = self._for_client(data, status, body, request.source.ip, now)
            return Outgoing(message, request.source, request.target)
        entry = Address(data[_ENTRY:_ENTRY_PORT], _U16.unpack_from(data, _ENTRY_PORT)[0])
        if data[_ENTRY:_MAX_REPLY] in self._own:
            client = Address(data[_CLIENT_IP:_ENTRY], _U16.unpack_from(data, _CLIENT)[0])
            return Outgoing(self._for_client(data, status, body, client.ip, now), client, entry)
        return Outgoing(self._for_entry(data, status, body, now), entry)

    def refusal(self, request: Datagram, size: int) -> Status:
        """Why a body of `size` bytes may not go to the client: it said so, or it is unproven.

        An entry node writes down only the smaller of what the client takes and what it sent
        unproven, so a forwarded request that allows exactly what it sent counts as unproven.
        """
        data = request.data
        if not self._cookies:
            return Status.TOO_LARGE
        if not data[_FLAGS] & Flag.FORWARDED:
            takes = _U16.unpack_from(data, _MAX_REPLY)[0] or MAX_BODY
            return Status.TOO_LARGE if size > takes else Status.COOKIE_NEEDED
        sent = _U16.unpack_from(data, _BODY_LEN)[0]
        return Status.COOKIE_NEEDED if request.max_reply == sent else Status.TOO_LARGE

    def _for_client(self, data: bytes, status: Status, body: bytes, client_ip: bytes, now: int) -> bytes:
        message = bytearray(data[:_KEPT_FOR_CLIENT]) + _BLANK_FOR_CLIENT + body
        self._fill(message, status, len(body))
        if self._cookies:
            _U64.pack_into(message, _COOKIE, self._core.cookie(client_ip, now))
        return bytes(message)

    def _for_entry(self, data: bytes, status: Status, body: bytes, now: int) -> bytes:
        message = bytearray(data[:_KEPT_FOR_ENTRY]) + _BLANK_FOR_ENTRY + body
        self._fill(message, status, len(body))
        self._core.seal(message, now)
        return bytes(message)

    def _fill(self, message: bytearray, status: Status, length: int) -> None:
        message[_FLAGS] = _REPLY
        if not 0 < message[_HOPS] <= self._hop_limit:
            message[_HOPS] = self._hop_limit
        _STATUS_AND_LENGTH.pack_into(message, _STATUS, status, length)
