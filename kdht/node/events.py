"""Events of a node for the daemon, as plain data."""

from typing import NamedTuple, TypeAlias

from kdht.wire import Address, Contact


class Joined(NamedTuple):
    """The node has joined: it looked itself up, or it is the first of its cluster."""

    contacts: int


class Ready(NamedTuple):
    """The node has reached every requirement, and should serve."""


class Isolated(NamedTuple):
    """The last contact is gone. The node tries to join again by itself."""


class ContactAdded(NamedTuple):
    """A contact answered. It is in the table now, and so in the datapaths."""

    contact: Contact


class ContactRemoved(NamedTuple):
    """A contact left the table: it does not answer, has left, or its address has another ID."""

    contact: Contact


class ContactDrained(NamedTuple):
    """A contact that leaves has given all its records to others."""

    contact: Contact


class Drained(NamedTuple):
    """This node has given all its records to other nodes."""


class Barred(NamedTuple):
    """Others name members that this node cannot reach. It takes no writes until that is clear."""


class Admitted(NamedTuple):
    """The node can reach all members, and takes writes again."""


class LeftCluster(NamedTuple):
    """The node has left its cluster because it cannot reach these members."""

    contacts: list[Contact]


class Resumes(NamedTuple):
    """No node names those members any more. The daemon must start the node anew, as by a restart."""


class YieldsToTwin(NamedTuple):
    """An older node with this node's ID lives at that address. This node has left its cluster for good."""

    address: Address


class HasTwin(NamedTuple):
    """A younger node with this node's ID lives at that address."""

    address: Address


class SeesTwins(NamedTuple):
    """The contact answers, and a node with the same ID writes from another address."""

    contact: Contact
    other: Address


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
    | LeftCluster
    | Resumes
    | YieldsToTwin
    | HasTwin
    | SeesTwins
    | LookupDone
)
