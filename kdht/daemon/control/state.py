"""What one daemon knows of itself: its settings, its warnings, and the node while it runs."""

import time

from kdht.config.settings import Settings
from kdht.daemon.control.running import Running
from kdht.errors import KdhtError


class DaemonState:
    """Of one daemon. The daemon tells it what happens, and the control methods answer from it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.phase = "starting"
        """Or "running", "moving", "stopping"."""
        self.is_lame = False
        """Whether the node serves on only until others have noticed that it goes."""
        self.notes: list[str] = []
        """Warnings of the start."""
        self.capabilities: list[str] = []
        """Capabilities that the process still has."""
        self.running: Running | None = None
        self._started = time.monotonic()

    @property
    def uptime(self) -> float:
        """Seconds."""
        return time.monotonic() - self._started

    @property
    def moving(self) -> bool:
        """True from the start of a move's handoff until the node runs with its new ID."""
        return self.running.moves.moving if self.running else self.phase == "moving"

    def node(self) -> Running:
        """The node. Raises KdhtError while it is starting or stopping."""
        if self.running is None:
            raise KdhtError(f"the node is {self.phase}")
        return self.running

    def follow(self, settings: Settings) -> None:
        """These settings count from now on."""
        self.settings = settings

    def note(self, warning: str) -> None:
        """Show this warning with the status, for good."""
        self.notes.append(warning)

    def keep(self, capabilities: list[str]) -> None:
        """The process has only these capabilities left."""
        self.capabilities = capabilities

    def serve(self, running: Running) -> None:
        """From now on answer about this node."""
        self.running = running
        self.phase = "running"

    def make_lame(self) -> None:
        """From now on say that the node is not ready: it serves on for a while, and then stops."""
        self.is_lame = True

    def end(self, phase: str) -> None:
        """The node is going away: from now on it is "stopping", "moving" or "starting" anew."""
        self.running = None
        self.phase = phase
