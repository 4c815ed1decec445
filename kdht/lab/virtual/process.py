"""One node's process under the virtual clock: it runs, is stopped for a while (SIGSTOP), or is dead.

Contract: due callbacks of a stopped process wait, and run all at once when it continues. Those of a dead process never
run. The network's packets wait in its transport, not here.
"""

from collections.abc import Callable

from kdht.datapath.memory import MemoryNetwork


class Process:
    """Calls back as the network does, unless the process does not run."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.paused = False
        self.dead = False
        self._network = network
        self._held: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def call_at(self, when: float, callback: Callable[..., None], *arguments: object) -> None:
        """As MemoryNetwork.call_at."""
        self._network.call_at(when, self._run, callback, arguments)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Run all callbacks that became due, in their order."""
        self.paused = False
        held, self._held = self._held, []
        for callback, arguments in held:
            self._run(callback, arguments)

    def kill(self) -> None:
        self.dead = True
        self._held.clear()

    def _run(self, callback: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if self.paused:
            self._held.append((callback, arguments))
        elif not self.dead:
            callback(*arguments)
