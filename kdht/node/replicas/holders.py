"""Which nodes hold a key, for an operator. Each named node is asked for its record, and nothing is repaired."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kdht.errors import BadPacket, MissingLibrary
from kdht.node.replicas._turns import Turn
from kdht.node.replicas.calls import SLOW, Calls, ReplicaAnswer, ReplicaCall
from kdht.node.replicas.quorum_reads import FETCHED, untrusted_fetched
from kdht.storage import StoredRecord
from kdht.wire import Address
from kdht.wire._shared import Op


class Holder(NamedTuple):
    """The answer of one node. `answered` without a record: it has none."""

    address: Address
    answered: bool
    record: StoredRecord | None


Done = Callable[[list[Holder]], None]


class HolderSurvey:
    """One round of FETCHes; `done` is called once, on any thread, when all have answered or are given up."""

    def __init__(
        self, calls: Calls, turn: Turn, key: bytes, addresses: Sequence[Address], done: Done
    ) -> None:
        self._found = {address: Holder(address, False, None) for address in addresses}
        self._done = done
        # Else the first refusal to ask would end the survey before the others are asked.
        self._waiting = 1  # for this function itself
        question = calls.question(Op.FETCH, key, b"")
        for address in addresses:
            if calls.ask(turn, question, address, self._told):
                self._waiting += 1
        self._one_less()

    def _told(self, turn: Turn, call: ReplicaCall, what: ReplicaAnswer | str) -> None:
        if what is SLOW:
            return
        if isinstance(what, ReplicaAnswer) and what.status in FETCHED:
            self._found[call.address] = _holder(call.question.key, call.address, what)
        self._one_less()

    def _one_less(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._done(list(self._found.values()))


def _holder(key: bytes, address: Address, answer: ReplicaAnswer) -> Holder:
    try:
        return Holder(address, True, untrusted_fetched(key, answer))
    except (BadPacket, MissingLibrary):
        return Holder(address, False, None)
