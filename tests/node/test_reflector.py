"""REFLECT: two datagrams, sealed, and nobody else is made to forward anything."""

import pytest
from chain import CLUSTER, IDS, configure

from kdht._routing import Core
from kdht.datapath.base import Datagram
from kdht.node.reflector import ANSWER_BYTES, MOST_A_SECOND, Reflector
from kdht.wire import Address, Message, parse, seal, verify
from kdht.wire._shared import MAX_BODY, Flag, Op, Reason

OWN, CHECKER, NODE = (
    Address.of("10.0.0.1", 5348),
    Address.of("10.0.0.2", 40000),
    Address.of("10.0.0.2", 5348),
)
NOW = 1_800_000_000


@pytest.fixture
def sent() -> list:
    return []


@pytest.fixture
def reflector(sent: list) -> Reflector:
    core = Core()
    configure(core, IDS[0], OWN)
    return Reflector(core, IDS[0], sent.extend)


def asked(**changed: object) -> Datagram:
    fields = {
        "op": Op.REFLECT,
        "key": IDS[0],
        "request_id": 77,
        "hops": 1,
        "client": NODE,
        "body": IDS[1] + bytes(180),
    }
    data = Message(**{**fields, **changed}).pack()
    seal(data, CLUSTER, NOW)
    return Datagram(bytes(data), CHECKER, OWN, Reason.CONTROL, 0)


def test_a_trace_for_the_node_and_an_answer_for_the_checker(reflector, sent):
    reflector.receive([asked()], NOW)
    trace, answer = sent
    for each in sent:
        verify(each.data, [CLUSTER], NOW)
        assert each.source == OWN
    assert (trace.target, answer.target) == (NODE, CHECKER)
    message = parse(trace.data)
    assert (message.op, message.key, message.request_id) == (Op.TRACE, IDS[0], 77)
    assert (message.client, message.entry) == (CHECKER, OWN)
    reply = parse(answer.data)
    assert (reply.op, reply.request_id, reply.is_reply) == (Op.REFLECT, 77, True)


def test_no_more_bytes_leave_for_an_address_than_came(reflector, sent):
    for body in (ANSWER_BYTES, MAX_BODY):
        sent.clear()
        request = asked(body=IDS[1] + bytes(body - len(IDS[1])))
        reflector.receive([request], NOW)
        assert sum(len(each.data) for each in sent) == len(request.data)


@pytest.mark.parametrize(
    "changed",
    [
        {"key": IDS[1]},
        {"flags": Flag.REPLY},
        {"client": Address.of("10.0.0.9", 5348)},
        {"client": Address.of("10.0.0.2", 0)},
        {"body": b""},
        {"body": bytes(200)},
        {"body": IDS[1] + bytes(ANSWER_BYTES - len(IDS[1]) - 1)},
    ],
    ids=["key", "reply", "client", "port", "empty", "unknown ID", "short"],
)
def test_an_invalid_reflect_is_refused(reflector, sent, changed):
    reflector.receive([asked(**changed)], NOW)
    assert sent == []
    assert reflector.counters == {"reflected": 0, "reflect_refused": 1}


def test_at_most_100_reflects_a_second_are_answered(reflector, sent):
    for _ in range(MOST_A_SECOND + 5):
        reflector.receive([asked()], NOW)
    assert reflector.counters == {"reflected": MOST_A_SECOND, "reflect_refused": 5}
    # The time of day may be set back.
    reflector.receive([asked()], NOW - 3600)
    assert reflector.counters["reflected"] == MOST_A_SECOND + 1
