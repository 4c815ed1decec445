"""What the node reports to whoever measures it: the daemon does, the laboratory does not."""

from typing import Protocol

from kdht.times import UnixTime


class Observer(Protocol):
    """Thread-safe."""

    def begin(self) -> float:
        """The time, by any clock, at which a batch of reads begins."""

    def at_once(self, reads: int, begun: float) -> None:
        """So many reads were answered at once, of a batch that began at `begun`."""

    def late(self, op: int, arrived: UnixTime) -> None:
        """A request is answered that had to wait for the disk or for other nodes. It arrived at `arrived`, Unix seconds."""

    def away(self) -> None:
        """The process did not run for half a second or more."""


class Unobserved:
    """Nobody measures."""

    def begin(self) -> float:
        return 0.0

    def at_once(self, reads: int, begun: float) -> None:
        pass

    def late(self, op: int, arrived: UnixTime) -> None:
        pass

    def away(self) -> None:
        pass
