"""A node of OpenDHT, by its Python binding; all of the node's work is done by the C++ library's thread."""

from collections.abc import Iterator
from queue import Empty, SimpleQueue

import opendht

from bench.peers.nodes.lines import Arguments, arguments, serve

NO_LIMIT = -1


class OpenDhtNode:
    """A lines.Node."""

    def __init__(self, given: Arguments) -> None:
        self._values = given.values
        self._keys = [opendht.InfoHash.get(f"key-{number}") for number in range(len(given.values))]
        self._ended: SimpleQueue[tuple[int, bool]] = SimpleQueue()
        config = opendht.DhtConfig()
        config.setRateLimit(NO_LIMIT, NO_LIMIT)
        self._runner = opendht.DhtRunner()
        self._runner.run(port=given.own.port, ipv4=given.own.host, config=config)
        if given.bootstrap:
            self._runner.bootstrap(given.bootstrap.host, str(given.bootstrap.port))

    def begin(self, do: str, number: int) -> None:
        key = self._keys[number]
        if do == "put":
            value = opendht.Value(self._values[number])
            self._runner.put(key, value, lambda well, nodes: self._ended.put((number, well)))
            return

        def found(value: "opendht.Value") -> bool:
            self._ended.put((number, value.data == self._values[number]))
            return False

        self._runner.get(key, get_cb=found, done_cb=lambda well, nodes: self._ended.put((number, False)))

    def finished(self, seconds: float) -> Iterator[tuple[int, bool]]:
        try:
            yield self._ended.get(timeout=seconds)
            while True:
                yield self._ended.get_nowait()
        except Empty:
            return


if __name__ == "__main__":
    serve(OpenDhtNode(arguments()))
