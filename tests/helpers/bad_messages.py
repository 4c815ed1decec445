"""Messages that no node may act on, each with the reason that it is dropped for."""

from builders import NOW, forwarded, packed, request, set_field

from kdht.wire import Address
from kdht.wire import _shared as shared
from kdht.wire._shared import TAG_KEY_LEN, Flag, Op

OTHER = packed("10.9.9.9")
REPLY = Flag.FORWARDED | Flag.REPLY


def bad_messages(
    signer: tuple[int, bytes], own: Address, key: bytes = b"\xff" * shared.ID_LEN, now: int = NOW
) -> dict[str, tuple[bytes, str]]:
    """By name: the message, and its reason at a node with the address `own`.

    The node's cluster signs with `signer`, an epoch and a tag key; it knows another that is closer to `key`.
    """
    return {
        **{name: (bytes(request(**{"key": key, **fields})), reason) for name, fields, reason in _CLIENTS},
        **_of_members(signer, own, key, now),
    }


_CLIENTS: list[tuple[str, dict[str, object], str]] = [
    ("wrong magic", {"magic": shared.MAGIC + 1}, "BAD_MAGIC"),
    ("version 2", {"version": 2}, "BAD_VERSION"),
    ("a body length that promises too much", {"body": b"abc", "body_len": 4}, "BAD_LENGTH"),
    ("a body length that hides something", {"body": b"abc", "body_len": 2}, "BAD_LENGTH"),
    ("a body length beyond any datagram", {"body_len": 0xFFFF}, "TOO_LONG"),
    ("a body one byte too long", {"body": bytes(shared.MAX_BODY + 1)}, "TOO_LONG"),
    ("a value of 1.5 KiB", {"op": Op.PUT, "body": bytes(shared.RECORD_LEN + 1536)}, "TOO_LONG"),
    ("an unknown op", {"op": shared.LAST_ROUTED_OP + 1}, "BAD_OP"),
    ("an unknown flag", {"flags": 0x80}, "BAD_FLAGS"),
    ("a client's reply", {"flags": Flag.REPLY}, "BAD_FLAGS"),
    ("a reply that takes a direct answer", {"flags": Flag.REPLY | Flag.DIRECT}, "BAD_FLAGS"),
    ("a reply with a proof", {"flags": Flag.REPLY | Flag.PROVEN}, "BAD_FLAGS"),
    ("a client's control message", {"op": Op.FIND_NODE}, "BAD_FLAGS"),
    ("hops that end before the next node", {"hops": 1}, "HOP_LIMIT"),
    ("a forged client address", {"client_ip": OTHER}, "FORGED_ORIGIN"),
    ("a forged client port", {"client_port": 53}, "FORGED_ORIGIN"),
    ("a forged entry address", {"entry_ip": OTHER}, "FORGED_ORIGIN"),
    ("a forged entry port", {"entry_port": shared.PORT}, "FORGED_ORIGIN"),
    ("a forged time", {"time": 1}, "FORGED_ORIGIN"),
    ("a forged tag", {"header_tag": 1}, "FORGED_ORIGIN"),
]
"""What a client changes in a good request."""


def _of_members(
    signer: tuple[int, bytes], own: Address, key: bytes, now: int
) -> dict[str, tuple[bytes, str]]:
    epoch, tag_key = signer
    usual = {"key": key, "time": now, "entry_ip": own.ip, "entry_port": own.port}
    changed_body = forwarded(signer, **usual, flags=REPLY, body=b"what the owner said")
    changed_body[-1] ^= 1
    changed_time = forwarded(signer, **usual)
    set_field(changed_time, "time", now + 1)
    made = {
        "FORWARDED from a client": (request(key=key, flags=Flag.FORWARDED, epoch=epoch), "BAD_TAG"),
        "a reply from a client": (request(key=key, flags=REPLY, epoch=epoch), "BAD_TAG"),
        "another cluster's tag": (forwarded((epoch, bytes(TAG_KEY_LEN)), **usual), "BAD_TAG"),
        "a wrong tag": (forwarded(signer, **usual, header_tag=1), "BAD_TAG"),
        "a time that was changed": (changed_time, "BAD_TAG"),
        "a wrong epoch": (forwarded((epoch + 1, tag_key), **usual), "BAD_EPOCH"),
        "a time gone by": (forwarded(signer, **{**usual, "time": now - 1000}), "STALE"),
        "a time to come": (forwarded(signer, **{**usual, "time": now + 1000}), "STALE"),
        "hop limit 0": (forwarded(signer, **usual, hops=0), "HOP_LIMIT"),
        "a reply for another entry node": (
            forwarded(signer, **{**usual, "entry_ip": OTHER}, flags=REPLY),
            "NOT_ENTRY",
        ),
        "a reply to nobody": (forwarded(signer, **usual, flags=REPLY, client_ip=bytes(16)), "BAD_ADDRESS"),
        "a reply whose body was changed": (changed_body, "BAD_BODY_TAG"),
    }
    return {name: (bytes(message), reason) for name, (message, reason) in made.items()}


NAMES = list(bad_messages((0, bytes(TAG_KEY_LEN)), Address.of("::1", 1)))
