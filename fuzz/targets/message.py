"""The socket datapath's verdict, `core_decide_message`, on any message from any address, and its `core_bounce` of the
same bytes, as if ICMP had quoted them; and what a replica does where it is a control message.

Invariant: a verdict for a reason that kdht.wire agrees with, no byte touched beyond the message,
and of the message only what the verdict allows; a member's message moves or ends here only with
right tags, and only a rightly tagged request is answered because of ICMP. What is taken for a STORE is a sound one.

    | node and fixes | source, low bits | message ...
"""

import random
from collections.abc import Iterator

from fuzz.targets.replica import check_store
from fuzz.targets.scene import FIXES, HOME4, HOME6, NODES, NOW, Fix, guard, make_core, mend
from fuzz.targets.verdicts import check, check_bounce
from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.wire import Address, Message, Record
from kdht.wire import _shared as shared
from kdht.wire._shared import Flag, Op, Reason

SOURCES = [
    Address.of(*each)
    for each in (
        ("10.0.0.99", 40000), ("fd00::99", 40000), ("10.1.0.1", shared.PORT), ("10.0.0.99", 0),
        ("0.1.2.3", 40000), ("224.0.0.1", 40000), ("255.255.255.255", 40000), ("::", 40000),
    )
]  # fmt: skip
_cores: list[Core] = []


def cores() -> list[Core]:
    if not _cores:
        _cores.extend(make_core(number) for number in range(NODES))
    return _cores


def arrival(data: bytes) -> tuple[int, Address, Address, bytearray]:
    """The node's number, source, target and message of an input of 2 or more bytes."""
    number, fixes = data[0] % NODES, data[0] & FIXES
    source = SOURCES[data[1] % len(SOURCES)]
    message = bytearray(data[2:])
    mend(message, fixes, source.ip)
    return number, source, HOME4 if source.is_ipv4 else HOME6, message


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    number, source, target, message = arrival(data)
    before = bytes(message)
    core = cores()[number]
    outcome = core.decide_message(guard(message), source, target, NOW)
    check(number, before, bytes(message), outcome, source, target)
    check_bounce(number, before, core.bounce(before, NOW))
    if outcome.reason is Reason.CONTROL:
        check_store(core, Datagram(before, source, target, outcome.reason, outcome.max_reply))


# --- Where fuzzing starts ----------------------------------------------------------------------


def messages() -> Iterator[tuple[str, bytes]]:
    """One message of each op and kind, for a mended tag."""
    rng = random.Random(7)
    for op in Op:
        for kind, flags in (
            ("request", 0),
            ("forwarded", Flag.FORWARDED),
            ("reply", Flag.REPLY | Flag.FORWARDED),
        ):
            sealed = {
                "hops": 9, "time": NOW, "epoch": 2, "client": SOURCES[0], "entry": HOME4, "max_reply": 1120,
            }  # fmt: skip
            message = Message(
                op=op,
                flags=Flag(flags),
                key=rng.randbytes(shared.ID_LEN),
                request_id=7,
                body=Record(1, value=b"body").pack() if op is Op.STORE else bytes(20),
                **(sealed if flags else {}),
            )
            yield f"{op.name.lower()}-{kind}", bytes(message.pack())


def seeds() -> Iterator[tuple[str, bytes]]:
    for name, message in messages():
        for number in range(NODES):
            yield f"{name}-{number}", bytes([number | Fix.FORM | Fix.TIME | Fix.TAGS, 0]) + message
        yield f"{name}-as-is", b"\x01\x00" + message
