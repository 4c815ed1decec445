"""The tracker as a server: sockets in, the client of the node out."""

from collections import Counter
from collections.abc import Mapping

from kdht.config.faces_schema import TrackerSection
from kdht.config.values import FaceEndpoint
from kdht.errors import BadPacket
from kdht.faces.face import FaceParts
from kdht.faces.rates import Rates
from kdht.faces.tracker import messages
from kdht.faces.tracker.messages import Connect
from kdht.faces.udp import Peer, UdpServer
from kdht.wire.tags import make_cookie


class TrackerFace:
    """See Face."""

    def __init__(self, section: TrackerSection, parts: FaceParts) -> None:
        self._counters: Counter[str] = Counter()
        self._parts = parts
        self._keys = parts.purpose_keys(b"kdht-tracker")
        self._rates = Rates(section.rate)
        self._servers = [self._server(at) for at in section.listen]

    def _server(self, at: FaceEndpoint) -> UdpServer:
        server = UdpServer(at, "tracker.listen", lambda data, peer: self._receive(server, data, peer))
        return server

    async def start(self) -> None:
        for server in self._servers:
            server.start()

    async def stop(self) -> None:
        for server in self._servers:
            server.stop()

    def counters(self) -> Mapping[str, int]:
        return sum((server.counters for server in self._servers), self._counters)

    def _receive(self, server: UdpServer, data: bytes, peer: Peer) -> None:
        try:
            request = messages.parse(data)
        except BadPacket as bad:
            self._counters[f"dropped {bad.reason}"] += 1
            return
        if isinstance(request, Connect):
            self._counters["connect"] += 1
            cookie = make_cookie(self._keys[0], peer.ip, int(self._parts.unix()))
            server.send(messages.pack_connected(request.transaction, cookie), peer)


def make(section: TrackerSection, parts: FaceParts) -> TrackerFace:
    return TrackerFace(section, parts)
