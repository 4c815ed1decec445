"""A scripted node that keeps records as a cluster would: versions, conditions, TTLs as they were given."""

from collections import Counter
from collections.abc import Callable

from scripted_node import Reaction, ScriptedNode, refusal, reply_to

from kdht.wire import Message, Record, hash_key, parse_write
from kdht.wire._shared import Op, Status


class ScriptedStore:
    """`node()` serves `records`: hashed key to record. `before` may answer a request in its place."""

    def __init__(self, before: Callable[[Message], list[bytes] | None] = lambda request: None) -> None:
        self.records: dict[bytes, Record] = {}
        self.deleted: dict[bytes, tuple[int, Status]] = {}
        """The version of each key's tombstone, and what the DELETE was answered."""
        self.asked: Counter[Op] = Counter()
        self.before = before

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
        gone, deleted = self.deleted.get(request.key, (0, Status.OK))
        if request.op in (Op.GET, Op.QUORUM_GET):
            if standing is None:
                return refusal(request, Status.NOT_FOUND, body=Record(gone).pack() if gone else b"")
            return reply_to(request, body=standing.pack())
        asked, condition = parse_write(request.body)
        version = standing.version if standing else 0
        if request.op == Op.DELETE and gone == asked.version:
            return refusal(request, deleted)
        if request.op == Op.PUT and standing == asked:
            return reply_to(request, body=asked._replace(value=b"").pack())
        if condition is not None and condition != version:
            return reply_to(request, status=Status.CONFLICT, body=Record(version).pack())
        if asked.version <= max(version, gone):
            return reply_to(request, status=Status.BAD_VERSION, body=Record(max(version, gone)).pack())
        self.records.pop(request.key, None)
        if request.op == Op.DELETE:
            status = Status.OK if standing else Status.NOT_FOUND
            self.deleted[request.key] = asked.version, status
            return refusal(request, status)
        self.records[request.key] = asked
        return reply_to(request, body=asked._replace(value=b"").pack())

    def value(self, key: str | bytes) -> bytes:
        return self.records[hash_key(key)].value
