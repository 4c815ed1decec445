"""How the control methods reach the node, while there is one."""

from collections.abc import Callable
from typing import TypeAlias

from kdht.daemon.datapaths import Datapaths
from kdht.daemon.wiring import Parts

Running: TypeAlias = Callable[[], tuple[Parts, Datapaths]]
"""The node's parts. Raises KdhtError while it is starting or stopping."""
