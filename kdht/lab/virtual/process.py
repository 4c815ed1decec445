"""One node's process under the virtual clock: it runs, is stopped for a while (SIGSTOP), or is dead.

Contract: what is due in a stopped process waits, and comes all at once when it goes on; what is due in a dead one
never comes. The network's packets wait in its transport, not here.
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
        """Let all that was due meanwhile happen, in the order in which it was due."""
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
