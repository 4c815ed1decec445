"""The UDP server of the faces: a real socket on loopback."""

import asyncio
import socket
from typing import Any

import pytest
from daemons import free_port

from kdht.config.values import FaceEndpoint
from kdht.faces.udp import Peer, UdpServer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_error_in_the_receiver_is_reported_and_the_next_datagram_is_served(host: str) -> None:
    errors: list[dict[str, Any]] = []

    async def ask() -> bytes:
        def receive(data: bytes, peer: Peer) -> None:
            if data == b"bad":
                raise ValueError("a fault of the face")
            server.send(data, peer)

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        port = free_port("127.0.0.1")
        endpoint = FaceEndpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        server = UdpServer(endpoint, "dns.listen", lambda ip: len(ip) == 16, receive)
        server.start()
        try:
            with socket.socket(
                socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
            ) as client:
                client.setblocking(False)
                client.connect((endpoint.host, endpoint.port))
                client.send(b"bad")
                client.send(b"good")
                return await asyncio.wait_for(loop.sock_recv(client, 100), 10)
        finally:
            server.stop()

    assert asyncio.run(ask()) == b"good"
    assert [str(context["exception"]) for context in errors] == ["a fault of the face"]
