"""Reports of commands that changed the node."""

import msgspec

from kdht.program.answers import Stopping


class DrainDone(Stopping):
    """The result of `drain`."""

    records: int
    """Given away."""


class MoveDone(msgspec.Struct):
    """The result of `move`: the IDs before and after, and the number of records given away."""

    former: str = msgspec.field(name="from")
    to: str | None
    address: str
    records: int
