"""What commands that change the node report once it is done."""

import msgspec

from kdht.program.answers import Stopping


class DrainDone(Stopping):
    """What `drain` did."""

    records: int
    """Given away."""


class MoveDone(msgspec.Struct):
    """What `move` did: the IDs before and after, and the records that were given away."""

    former: str = msgspec.field(name="from")
    to: str | None
    address: str
    records: int
