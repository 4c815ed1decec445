"""Stand-in."""

from kdht.datapath.base import Datagram
from kdht.wire import Contact


class Driver:
    joined = True

    def receive(self, batch: list[Datagram]) -> None: ...
    def contacts(self) -> list[Contact]:
        return []

    def counters(self) -> dict[str, int]:
        return {}
