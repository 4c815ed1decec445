"""Every number of every control message at 0, 1, its greatest and a step beyond what is sensible, from a member."""

import pytest

from fuzz.targets import lies
from fuzz.targets.events import Reader
from kdht.lab.virtual.cluster import id_of
from kdht.wire import Record
from kdht.wire._shared import Op

FILL = 200
"""Bytes: more than the choices of one message."""


def chosen(number: int, other: int) -> bytes:
    """Choices of which one or the other number follows: fields lie side by side."""
    return bytes([number, other] * (FILL // 2))


@pytest.mark.parametrize("op", lies.OPS, ids=lambda op: op.name)
def test_no_number_of_a_message_harms_a_node(op):
    world = lies.World()
    for number in range(len(lies.NUMBERS)):
        for other in (number, number + 1, 2):
            liar = lies.Liar(world, Reader(chosen(number, other)))
            for to in world.honest:
                world.send(op, liar.key(), liar.request(op), to, change=number % 7, value=2**64 - 1)
            world.answers[op] = lies.STATUSES[number % len(lies.STATUSES)], liar.reply(op)
        world.cluster.run(0.5)
    for client_op in lies.ROUTED:
        world.ask(client_op, id_of(1000), liar.of_client(client_op), 7)
    world.cluster.run(5.0)
    world.silence()
    assert world.faults() == 0
    assert world.succeeds(Op.PUT, id_of(2000), Record(value=b"honest").pack()) is not None
    assert world.faults() == 0


@pytest.mark.parametrize("number", range(len(lies.NUMBERS)))
def test_no_number_of_a_clients_request_harms_a_node(number):
    world = lies.World()
    for op in lies.ROUTED:
        for other in (number, 2, 0):
            liar = lies.Liar(world, Reader(chosen(number, other)))
            world.ask(op, id_of(1000 + number), liar.of_client(op), 1000 * op + other, attempt=255)
            world.ask(op, id_of(1000 + number), liar.of_client(op), 2000 * op + other)
    world.cluster.run(5.0)
    world.silence()
    assert world.succeeds(Op.PUT, id_of(2000), Record(value=b"honest").pack()) is not None
    assert world.faults() == 0
