"""Control messages on their way out: made, sealed, and kept until the daemon takes them."""

from kdht.datapath.base import Datagram, Outgoing
from kdht.node._timers import TokenBucket
from kdht.node.context import NodeContext
from kdht.node.messages import CONTROL_HOPS
from kdht.node.rpc import Rpc
from kdht.times import SteadyTime
from kdht.wire import Address, Message, seal
from kdht.wire._shared import Flag, Op, Status
from kdht.wire.keys import ClusterSecret


class ControlOutbox:
    """The outgoing control messages of one node, sealed with the secret `key`."""

    def __init__(self, context: NodeContext, key: ClusterSecret) -> None:
        self.key = key
        self._context = context
        self._waiting: list[Outgoing] = []
        # Apart from the rate of notices, so that answers to a flood of questions delay no probe.
        self._reply_budget = TokenBucket(context.options.reply_rate)

    def take(self) -> list[Outgoing]:
        """The datagrams to send. Each is returned once."""
        # The daemon sends them after each call, so that no I/O happens inside the node.
        outgoing, self._waiting = self._waiting, []
        return outgoing

    def request(self, rpc: Rpc, now: SteadyTime) -> None:
        """One more transmission of a request."""
        # A STORE has the form of a coordinator's, in which every byte is the record's.
        body = rpc.body if rpc.op is Op.STORE else self._context.id + rpc.body
        self._ask(rpc.op, rpc.key, rpc.request_id, body, rpc.address, now, len(rpc.sent) - 1)

    def notice(self, op: Op, key: bytes, body: bytes, target: Address, now: SteadyTime) -> None:
        """Send a message without an answer. `body` follows the sender's ID."""
        # Nobody answers it, but the replay memory of datapaths tells messages apart by their tags, and so by
        # this.
        request_id = self._context.rng.getrandbits(64)
        self._ask(op, key, request_id, self._context.id + body, target, now)

    def may_reply(self, now: SteadyTime) -> bool:
        """Take one reply from the budget. False, and counted, if it is used up."""
        if self._reply_budget.take(now):
            return True
        self._context.counters["reply_rate"] += 1
        return False

    def respond(
        self, request: Message, datagram: Datagram, body: bytes, status: Status, now: SteadyTime
    ) -> None:
        """An answer with a status or a body of its own, within the budget. `body` follows this node's ID."""
        if self.may_reply(now):
            self.reply(request, datagram, self._context.id + body, now, status)

    def reply(
        self, request: Message, datagram: Datagram, body: bytes, now: SteadyTime, status: Status = Status.OK
    ) -> None:
        """The answer to a request, from the address that it was sent to."""
        message = Message(
            op=request.op,
            key=request.key,
            request_id=request.request_id,
            flags=Flag.REPLY,
            hops=CONTROL_HOPS,
            attempt=request.attempt,
            status=status,
            body=body,
            client=datagram.target,
        )
        self._send(message, datagram.source, now)

    def _ask(
        self,
        op: Op,
        key: bytes,
        request_id: int,
        body: bytes,
        target: Address,
        now: SteadyTime,
        attempt: int = 0,
    ) -> None:
        # Own address of the target's IP version: the receiver checks that it is the packet's source.
        source = self._context.source(target)
        assert source is not None, "addresses of the other IP version were left out"
        message = Message(
            op=op,
            key=key,
            request_id=request_id,
            hops=CONTROL_HOPS,
            attempt=attempt,
            body=body,
            client=source,
        )
        self._send(message, target, now)

    def _send(self, message: Message, target: Address, now: SteadyTime) -> None:
        data = message.pack()
        seal(data, self.key, int(now + self._context.unix_offset))
        self._waiting.append(Outgoing(bytes(data), target, message.client))
