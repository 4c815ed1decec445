"""A scripted node that keeps records as a cluster would: versions, conditions, TTLs as they were given."""

from collections import Counter
from collections.abc import Callable

from scripted_node import Reaction, ScriptedNode, refusal, reply_to

from kdht._shared import Op, Status
from kdht.wire import Message, Record, hash_key, parse_write


class ScriptedStore:
    """`node()` serves `records`: hashed key to record. `before` may answer a request in its place."""

    def __init__(self, before: Callable[[Message], list[bytes] | None] = lambda request: None) -> None:
        self.records: dict[bytes, Record] = {}
        self.asked: Counter[Op] = Counter()
        self.before = before
        self._version = 100

    def node(self) -> ScriptedNode:
        reaction: Reaction = lambda _node, request: self.answer(request)  # noqa: E731
        return ScriptedNode(reaction)

    def answer(self, request: Message) -> list[bytes]:
        self.asked[request.op] += 1
        instead = self.before(request)
        return [self.carry_out(request)] if instead is None else instead

    def carry_out(self, request: Message) -> bytes:
        """Do what is asked; the answer."""
        standing = self.records.get(request.key)
        if request.op in (Op.GET, Op.QUORUM_GET):
            if standing is None:
                return refusal(request, Status.NOT_FOUND)
            return reply_to(request, body=standing.pack())
        asked, condition = parse_write(request.body) if request.body else (Record(), None)
        version = standing.version if standing else 0
        if condition is not None and condition != version:
            return reply_to(request, status=Status.CONFLICT, body=Record(version).pack())
        if request.op == Op.DELETE:
            existed = self.records.pop(request.key, None)
            return refusal(request, Status.OK if existed else Status.NOT_FOUND)
        self._version += 1
        self.records[request.key] = Record(self._version, asked.ttl, 0, asked.value)
        return reply_to(request, body=Record(self._version, asked.ttl).pack())

    def value(self, key: str | bytes) -> bytes:
        return self.records[hash_key(key)].value
