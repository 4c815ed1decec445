"""What a node tells the daemon, as plain data."""

from typing import NamedTuple, TypeAlias

from kdht.wire import Contact


class Joined(NamedTuple):
    """The node found its place: it looked itself up, or it is the first of its cluster."""

    contacts: int


class Ready(NamedTuple):
    """The node has reached all that it has to before it should serve."""


class Isolated(NamedTuple):
    """The last contact is gone. The node tries to join again by itself."""


class ContactAdded(NamedTuple):
    """A contact is in the table, and so in the datapaths: it answered."""

    contact: Contact


class ContactRemoved(NamedTuple):
    """A contact left the table: it does not answer, or its address has another ID now."""

    contact: Contact


class ContactDrained(NamedTuple):
    """A contact that left, or leaves now, has given all its records to others."""

    contact: Contact


class Drained(NamedTuple):
    """Every record that this node kept is at the nodes that keep it without this one."""


class Barred(NamedTuple):
    """Others name members that this node cannot reach: it takes no writes until that is decided."""


class Admitted(NamedTuple):
    """It can reach all: it takes writes again."""


class Aside(NamedTuple):
    """The node has left its cluster, for it cannot reach these members."""

    contacts: list[Contact]


class Resumes(NamedTuple):
    """Nobody names those members any more: the node is to be started anew, as by a restart."""


class LookupDone(NamedTuple):
    """The end of a lookup that `Node.lookup` began."""

    target: bytes
    closest: list[Contact]
    """Up to k contacts that answered, nearest first."""


Event: TypeAlias = (
    Joined
    | Ready
    | Isolated
    | ContactAdded
    | ContactRemoved
    | ContactDrained
    | Drained
    | Barred
    | Admitted
    | Aside
    | Resumes
    | LookupDone
)
