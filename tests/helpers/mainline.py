"""A node of BitTorrent's DHT that keeps one item: enough for libtorrent to put an item there, and to get one."""

import socket
import threading
from importlib.util import find_spec
from shutil import which
from types import TracebackType
from typing import Self

from kdht.errors import BadPacket
from kdht.wire.bencode import Bencoded, decode, encode
from kdht.wire.certified import SignedValue

NODE_ID = bytes(20)


def absent() -> list[str]:
    """The other implementations of signed items that are not here."""
    here = {"Node.js": which("node"), "libtorrent": find_spec("libtorrent")}
    return [name for name, found in here.items() if found is None]


class MainlineNode:
    """Answers on 127.0.0.1 while it is entered. `puts` are the arguments of the puts that came; `item` is what a get is given."""

    def __init__(self, item: SignedValue | None = None) -> None:
        self.item = item
        self.puts: list[dict[bytes, Bencoded]] = []
        self.came = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.port = self._socket.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                data, source = self._socket.recvfrom(2048)
                answer = self._answer(decode(data))
            except (TimeoutError, BadPacket):
                continue
            if answer is not None:
                self._socket.sendto(answer, source)

    def _answer(self, query: Bencoded) -> bytes | None:
        if not isinstance(query, dict) or query.get(b"y") != b"q":
            return None
        reply: dict[bytes, object] = {b"id": NODE_ID, b"nodes": b"", b"token": b"token"}
        if query[b"q"] == b"get" and self.item is not None:
            reply |= {
                b"k": self.item.public_key,
                b"seq": self.item.seq,
                b"sig": self.item.signature,
                b"v": decode(self.item.v),
            }
        if query[b"q"] == b"put":
            self.puts.append(query[b"a"])  # type: ignore[arg-type]
            self.came.set()
        return encode({b"r": reply, b"t": query[b"t"], b"y": b"r"})  # type: ignore[dict-item]


def item_in(put: dict[bytes, Bencoded]) -> SignedValue:
    """The item of a put."""
    salt = put.get(b"salt", b"")
    return SignedValue(put[b"k"], put[b"sig"], salt, put[b"seq"], encode(put[b"v"]))  # type: ignore[arg-type]
