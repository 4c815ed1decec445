"""How the control methods reach the node, while there is one."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from kdht.daemon.datapaths import Datapaths
from kdht.daemon.moving import Moves
from kdht.daemon.wiring import Parts


class Running(NamedTuple):
    """A node that serves, from its start to its stop or its move."""

    parts: Parts
    datapaths: Datapaths
    moves: Moves
    reload: Callable[[], list[str]]
    """Reads the configuration again. Returns the fields that need a restart. Raises ConfigError."""


RunningNode: TypeAlias = Callable[[], Running]
"""The node that runs. Raises KdhtError while it is starting or stopping."""
