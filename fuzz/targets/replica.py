"""What a replica may do with a control message: take it where it is a sound STORE, and answer as all control messages are."""

from collections import Counter
from collections.abc import Callable, Sequence

from fuzz.targets.scene import HOME4, HOME6, KEYS, NOW
from kdht._routing import Core
from kdht._shared import HEADER_LEN, RECORD_LEN, Flag, Op, Status
from kdht.datapath.base import Datagram, Outgoing
from kdht.errors import BadPacket
from kdht.node.replicas import calls
from kdht.node.replicas._stores import Stores
from kdht.node.replicas.clock import HybridClock
from kdht.node.replicas.reads import untrusted_stored
from kdht.storage import Result, Stored, Write
from kdht.wire import FIELD, OFFSET, RECORD, verify

OWN = frozenset({HOME4, HOME6})


def check_store(core: Core, arrived: Datagram) -> None:
    """Hold what `Stores` does with a message for this node against the rules in Python."""
    written: list[Write] = []
    sent: list[Outgoing] = []

    def submit(writes: Sequence[Write], now: float, done: Callable[[object], None]) -> bool:
        written.extend(writes)
        done([Result(len(each.record.value) % 2 == 0, False, 7) for each in writes])
        return True

    rest = Stores(core, OWN, submit, sent.extend, HybridClock(), Counter()).take([arrived], NOW)
    record = _record(arrived)
    if record is None:
        assert (rest, written, sent) == ([arrived], [], []), "it is no sound STORE"
        return
    assert rest == []
    assert written == [Write(arrived.data[FIELD["key"]], record)]
    status = Status.CONFLICT if len(record.value) % 2 else Status.OK
    assert sent == [calls.answer(core, arrived, status, RECORD.pack(7, 0, 0), NOW)]
    verify(sent[0].data, KEYS[:1], NOW, 0)
    assert len(sent[0].data) == HEADER_LEN + RECORD_LEN


def _record(arrived: Datagram) -> Stored | None:
    """What a sound STORE wants stored."""
    data, source = arrived.data, arrived.source
    if data[OFFSET["op"]] != Op.STORE or data[OFFSET["flags"]] & Flag.REPLY or arrived.target not in OWN:
        return None
    if data[FIELD["client_port"]] != source.port.to_bytes(2, "big") or data[FIELD["client_ip"]] != source.ip:
        return None
    try:
        return untrusted_stored(data[HEADER_LEN:])
    except BadPacket:
        return None
