"""Checks what a replica does with a control message: it takes a valid STORE, and answers as for every control message."""

from collections import Counter
from collections.abc import Callable, Sequence

from fuzz.targets.scene import HOME4, HOME6, KEYS, NOW
from kdht._routing import Core
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket, MissingLibrary
from kdht.node.replicas import calls
from kdht.node.replicas._clock import HybridClock
from kdht.node.replicas._recent import Recent
from kdht.node.replicas._store_requests import StoreRequests
from kdht.node.replicas.quorum_reads import untrusted_store
from kdht.storage import Result, Write
from kdht.wire import FIELD, OFFSET, RECORD, verify
from kdht.wire._shared import HEADER_LEN, RECORD_LEN, Flag, Op, RecordFlag, Status

OWN = frozenset({HOME4, HOME6})
OUTCOMES = (
    (Result(True, False, 7), Status.OK, 7),
    (Result(False, False, 7), Status.CONFLICT, 7),
    (Result(False, False, 7, 9), Status.BAD_VERSION, 9),
)


def check_store(core: Core, arrived: Datagram) -> None:
    """Compare `StoreRequests` with the rules in Python, for one message to this node."""
    written: list[Write] = []
    sent: list[Outgoing] = []

    def submit(writes: Sequence[Write], now: float, done: Callable[[object], None]) -> bool:
        written.extend(writes)
        done([OUTCOMES[len(each.record.value) % 3][0] for each in writes])
        return True

    recent = Recent()
    rest = StoreRequests(
        core, OWN, submit, sent.extend, HybridClock(), Counter(), recent.deletion, _has_caught_up
    ).take([arrived], NOW)
    asked = _asked(arrived)
    if asked is None:
        assert (rest, written, sent) == ([arrived], [], []), "it is no sound STORE"
        return
    assert rest == []
    assert written == [asked]
    _, status, version = OUTCOMES[len(asked.record.value) % 3]
    flags = 0 if _has_caught_up(arrived.data[FIELD["key"]]) else RecordFlag.BEHIND
    assert sent == [calls.answer(core, arrived, status, RECORD.pack(version, 0, flags), NOW)]
    verify(sent[0].data, KEYS[:1], NOW, 0)
    assert len(sent[0].data) == HEADER_LEN + RECORD_LEN


def _has_caught_up(key: bytes) -> bool:
    """This node holds half of all keys."""
    return key[-1] % 2 == 0


def _asked(arrived: Datagram) -> Write | None:
    """The write that a valid STORE asks for."""
    data, source = arrived.data, arrived.source
    if data[OFFSET["op"]] != Op.STORE or data[OFFSET["flags"]] & Flag.REPLY or arrived.target not in OWN:
        return None
    if data[FIELD["client_port"]] != source.port.to_bytes(2, "big") or data[FIELD["client_ip"]] != source.ip:
        return None
    try:
        return untrusted_store(data[FIELD["key"]], data[HEADER_LEN:])
    except (BadPacket, MissingLibrary):
        return None
