"""Single requests at a steady rate, none of them repeated: when were they lost?"""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from nfq import udp

from kdht.lab.netns import Host
from kdht.wire import FIELD, hash_key, pack_request
from kdht.wire._shared import MAX_BODY, Op

RATE = 200
PATIENCE_S = 1.0
"""After so long an answer does not count."""


class Load:
    """What was sent, by number: when, and whether the answer came in time."""

    def __init__(self, there: socket.socket, target: tuple[str, int], names: Sequence[str]) -> None:
        self.sent: dict[int, float] = {}
        self.answered: set[int] = set()
        self._there = there
        self._target = target
        self._keys = [hash_key(name) for name in names]
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._send, self._receive)]

    def lost(self, before: float) -> list[float]:
        """When lost requests were sent, other than those sent after `before`, whose answers may be on the way."""
        times = [at for number, at in self.sent.items() if number not in self.answered]
        return sorted(at for at in times if at < before)

    def forget(self) -> None:
        """Do not count what was sent so far."""
        self.sent, self.answered = {}, set()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        time.sleep(0.2)
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        number, begun = 0, time.monotonic()
        while not self._ending.is_set():
            number += 1
            key = self._keys[number % len(self._keys)]
            self.sent[number] = time.monotonic()
            with suppress(OSError):
                self._there.sendto(pack_request(Op.GET, key, number, max_reply=MAX_BODY), self._target)
            time.sleep(max(begun + number / RATE - time.monotonic(), 0))

    def _receive(self) -> None:
        self._there.settimeout(0.1)
        while not self._ending.is_set():
            try:
                data = self._there.recv(2048)
            except OSError:
                continue
            number = int.from_bytes(data[FIELD["request_id"]], "big")
            if time.monotonic() - self.sent.get(number, 0) < PATIENCE_S:
                self.answered.add(number)


@contextmanager
def loaded(host: Host, source: str, target: tuple[str, int], names: Sequence[str]) -> Iterator[Load]:
    """GETs of these names in turn, from here to there, while the block runs."""
    with udp(host, source) as there:
        load = Load(there, target, names)
        load.start()
        try:
            yield load
        finally:
            load.stop()
