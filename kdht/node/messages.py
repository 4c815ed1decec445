"""The bodies of control messages, to bytes and from untrusted bytes, which end in BadPacket only.

    request, and PING's reply:   FIND_NODE's reply:

      0                  20        0                  20              58
      | the sender's ID  |         | the sender's ID  | contact, 38 B | ...

    FIND_NODE of a node that is no member yet:

      0                  20
      | zero             |
      | CLAIM or none    |

    LEAVE:                       SUSPECT:

      0                  20        0                  20              58
      | the sender's ID  |         | the sender's ID  | contact, 38 B |
      | DRAINED or none  |

A PING with SUMMARY behind the ID asks how the node is (summary.py).

Later versions may add bytes behind these. Bytes behind the ID of a PING or of a member's FIND_NODE are ignored.
"""

from typing import NamedTuple

from kdht.errors import BadPacket
from kdht.wire import Contact, Message, parse_contacts
from kdht.wire._shared import ID_LEN, K, Op, Status

UNKNOWN_ID = bytes(ID_LEN)
"""Stands for an ID that is not known yet: the expected one in a PING, or the sender's if it has none."""

CLAIM = b"\x01"
"""Body of a newcomer's FIND_NODE that claims the ID in the key, in the gap of the node that it asks."""

DRAINED = b"\x01"
"""Body of a LEAVE: the sender has given all its records to other nodes."""

CONTROL_HOPS = 1
"""Hops of a control message, which ends at the node that it is sent to."""


class Reply(NamedTuple):
    """A matched answer."""

    id: bytes
    contacts: list[Contact]
    rtt: float
    """Seconds from the transmission that it answers."""
    status: Status = Status.OK
    body: bytes = b""
    """The bytes after the ID, for ops that carry more than contacts."""


def untrusted_id(message: Message) -> bytes:
    """The sender's ID. Raises BadPacket."""
    sender = message.body[:ID_LEN]
    if len(sender) < ID_LEN:
        raise BadPacket("TRUNCATED", "no sender's ID in a control message")
    # Nobody has this ID, and as a contact it would match every request to an unknown node.
    if sender == UNKNOWN_ID:
        raise BadPacket("FORGED_ORIGIN", "the ID that stands for an unknown one")
    return sender


def untrusted_contacts(message: Message) -> list[Contact]:
    """The contacts of a reply: none but of FIND_NODE, and at most k. Raises BadPacket."""
    if message.op is not Op.FIND_NODE:
        return []
    contacts = parse_contacts(message.body[ID_LEN:])
    # No node names more. A liar could have this one verify hundreds of addresses for one answer.
    if len(contacts) > K:
        raise BadPacket("TOO_LONG", f"{len(contacts)} contacts")
    return contacts


def is_newcomers(message: Message) -> bool:
    """Whether the sender is no member yet. Then it must not enter the table."""
    return message.op is Op.FIND_NODE and not message.is_reply and message.body[:ID_LEN] == UNKNOWN_ID


def is_claim(message: Message) -> bool:
    """Whether a newcomer asks to be let into the gap that the key is in."""
    return message.body[ID_LEN : ID_LEN + 1] == CLAIM


def is_drained(message: Message) -> bool:
    """Whether the sender of a LEAVE has given all its records away."""
    return message.body[ID_LEN : ID_LEN + 1] == DRAINED


def untrusted_suspect(message: Message) -> Contact:
    """The contact that a SUSPECT names. Raises BadPacket."""
    contacts = parse_contacts(message.body[ID_LEN:])
    if len(contacts) != 1:
        raise BadPacket("BAD_LENGTH", f"a SUSPECT about {len(contacts)} contacts")
    return contacts[0]
