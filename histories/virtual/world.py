"""Runs a schedule: real nodes and real clients under a virtual clock. The same schedule gives the same history."""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

from histories.record import Operation
from histories.virtual.schedule import REPLICAS, Action, Fault, Schedule
from kdht.client import _calls as calls
from kdht.client import _steps as steps
from kdht.datapath.memory import START
from kdht.errors import Conflict, KdhtError, NotFound, RequestTimeout, Unconfirmed
from kdht.lab.virtual import Member, VirtualCluster, address_of
from kdht.lab.virtual.client import VirtualClient
from kdht.lab.virtual.disk import CrashStore
from kdht.node.repair import RepairOptions
from kdht.node.replicas import Policy
from kdht.wire import Address, Contact, Record

DELAY = (0.0005, 0.004)
"""Seconds that a datagram takes, least and most."""
SETTLE_SECONDS = 10.0
"""At most, until all nodes know each other and have compared their records."""
MOST_SECONDS = 90.0
"""Of the clients' work."""
HEAL_SECONDS = 15.0
"""From the last fault's end to the last reads."""


def run(schedule: Schedule) -> list[Operation]:
    """All operations, by the time of their call; the last ones are quorum reads and reads when all is healed."""
    return _World(schedule).run()


class _World:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.rng = Random(f"world {schedule.seed}")
        self.cluster = VirtualCluster(
            schedule.seed,
            policy=Policy(replicas=REPLICAS),
            repair=RepairOptions(replicas=REPLICAS, quiet=0.3, settle_delay=0.4),
            new_store=CrashStore,
        )
        self.network = self.cluster.network
        self.network.delay = DELAY
        self.members: dict[int, Member] = {}
        self.contacts: dict[int, list[Contact]] = {}
        self.active: list[Fault] = []
        self.history: list[Operation] = []
        self.clients: list[_Client] = []

    def run(self) -> list[Operation]:
        schedule, network = self.schedule, self.network
        for node in range(1, schedule.nodes + 1):
            self.start(node)
        network.run_while(lambda: not self.is_settled(), SETTLE_SECONDS)
        begun = network.now
        for fault in schedule.faults:
            network.call_at(begun + fault.at, self._begin, fault)
        self.clients = [_Client(self, number, nodes) for number, nodes in enumerate(schedule.entries)]
        for client in self.clients:
            client.next()
        network.run_while(lambda: not all(client.done for client in self.clients), MOST_SECONDS)
        last = max((fault.until for fault in schedule.faults), default=0.0)
        if network.now < begun + last:
            network.run(begun + last)
        network.run(network.now + HEAL_SECONDS)
        self._look_again()
        return sorted(self.history, key=lambda operation: operation.invoked_ns)

    def is_settled(self) -> bool:
        members = self.members.values()
        return all(len(m.node.table) == len(members) - 1 and m.node.readiness.ready for m in members)

    # --- Nodes and faults

    def start(self, node: int) -> None:
        others = [member.contact for member in self.cluster.members]
        member = self.cluster.add(
            node, bootstrap=others, skew=self.schedule.skews.get(node, 0.0), known=self.contacts.get(node, [])
        )
        self.members[node] = member

    def _begin(self, fault: Fault) -> None:
        if fault.kind == "join":
            for node in fault.nodes:
                self.start(node)
            return
        if fault.kind == "drain":
            self.members[fault.nodes[0]].drain()
            return
        if fault.kind in ("kill", "pause") and any(
            each.kind in ("kill", "pause") and each.nodes == fault.nodes for each in self.active
        ):
            return
        self.active.append(fault)
        if fault.kind == "kill":
            member = self.members.pop(fault.nodes[0])
            self.contacts[fault.nodes[0]] = member.node.snapshot()
            self.cluster.kill(member)
        elif fault.kind == "pause":
            self.members[fault.nodes[0]].pause()
        self._renew()
        self.network.call_at(self.network.now + fault.until - fault.at, self._end, fault)

    def _end(self, fault: Fault) -> None:
        self.active.remove(fault)
        if fault.kind == "kill":
            self.start(fault.nodes[0])
        elif fault.kind == "pause":
            self.members[fault.nodes[0]].resume()
        self._renew()

    def _renew(self) -> None:
        """What the network does while these faults last."""
        network = self.network
        amounts = {kind: [f.amount for f in self.active if f.kind == kind] for kind in ("loss", "duplicate", "slow")}
        network.loss = max(amounts["loss"], default=0.0)
        network.duplicate = max(amounts["duplicate"], default=0.0)
        network.delay = DELAY[0], max([DELAY[1], *amounts["slow"]])
        network.forget_losses()
        for fault in self.active:
            if fault.kind == "cut":
                network.set_loss(address_of(fault.nodes[0]), address_of(fault.nodes[1]), 1.0)
            elif fault.kind == "isolate":
                self._isolate(fault)

    def _isolate(self, fault: Fault) -> None:
        inside = [address_of(node) for node in fault.nodes]
        others = [address_of(node) for node in range(1, self.schedule.most_nodes + 1) if node not in fault.nodes]
        if fault.amount:
            others += [client.address for client in self.clients]
        for one in inside:
            for other in others:
                self.network.set_loss(one, other, 1.0)
                self.network.set_loss(other, one, 1.0)

    # --- The end

    def _look_again(self) -> None:
        """Read every key through every node, by a quorum and from the owner."""
        keys = sorted({action.key for action in self.schedule.actions})
        nodes = sorted(self.members)
        for number, node in enumerate(nodes):
            reads = [
                Action(0, 0.0, kind, key)
                for key in keys
                for kind in (("quorum_get", "get") if number else ("quorum_get",))
            ]
            client = _Client(self, len(self.clients) + number, (node,), reads, name=f"final{node}")
            client.next()
            self.network.run_while(lambda client=client: not client.done, MOST_SECONDS)


class _Client:
    """One client: its actions one after the other, each written down."""

    def __init__(
        self, world: _World, number: int, entries: tuple[int, ...], actions: list[Action] | None = None, name: str = ""
    ) -> None:
        schedule = world.schedule
        self.name = name or f"c{number}"
        self._world = world
        self._number = number
        if actions is None:
            actions = [action for action in schedule.actions if action.client == number]
        self._actions = iter(actions)
        self._known: dict[str, int] = {}
        self._count = 0
        self.done = False
        self.address = Address.of(f"192.0.2.{number + 1}", 40000)
        self._client = VirtualClient(
            world.network,
            self.address,
            [address_of(node) for node in entries],
            Random(f"client {schedule.seed} {number}"),
            timeout=4.0,
            skew=schedule.client_skews[number] if number < len(schedule.client_skews) else 0.0,
        )

    def next(self) -> None:
        action = next(self._actions, None)
        if action is None:
            self.done = True
            return
        network = self._world.network
        network.call_at(network.now + action.pause, self._act, action)

    def _act(self, action: Action) -> None:
        key = action.key
        match action.kind:
            case "put":
                self._put(key, None, self.next)
            case "cas":
                self._put(key, self._known.get(key, 0), self.next)
            case "create":
                self._put(key, 0, self.next)
            case "add":
                self._get(key, True, lambda: self._put(key, self._known.get(key, 0), self.next))
            case "delete":
                self._delete(key, None, self.next)
            case "cas_delete":
                self._delete(key, self._known.get(key) or 1, self.next)
            case "get" | "quorum_get":
                self._get(key, action.kind == "quorum_get", self.next)

    def _put(self, key: str, condition: int | None, then: Callable[[], None]) -> None:
        self._count += 1
        value = f"{self.name}.{self._count}"
        operation = steps.put(key, value.encode(), None, condition)
        self._run(operation, partial(self._wrote, "put", key, value, condition, self._now(), then))

    def _delete(self, key: str, condition: int | None, then: Callable[[], None]) -> None:
        operation = steps.delete(key, condition)
        self._run(operation, partial(self._wrote, "delete", key, None, condition, self._now(), then))

    def _get(self, key: str, quorum: bool, then: Callable[[], None]) -> None:
        def operation() -> Iterator[Any]:
            return calls.record((yield calls.get(key, quorum=quorum)))

        kind = "quorum_get" if quorum else "get"
        self._run(operation(), partial(self._read, kind, key, self._now(), then))

    def _run(self, operation: Any, ended: Callable[[Any, KdhtError | None], None]) -> None:
        self._client.run(operation, ended)

    def _wrote(
        self,
        kind: str,
        key: str,
        value: str | None,
        condition: int | None,
        invoked: int,
        then: Callable[[], None],
        result: Any,
        error: KdhtError | None,
    ) -> None:
        outcome, version = "ok", 0
        if error is None:
            version = result if kind == "put" else 0
            self._known[key] = version
            if kind == "delete" and result is False:
                outcome = "not_found"
        elif isinstance(error, Conflict):
            outcome, version = "conflict", error.version
            self._known[key] = version
        else:
            outcome = "unknown" if isinstance(error, Unconfirmed | RequestTimeout) else "refused"
        self._note(kind, key, invoked, outcome, value, version, condition, error)
        then()

    def _read(
        self, kind: str, key: str, invoked: int, then: Callable[[], None], result: Record | None, error: KdhtError | None
    ) -> None:
        outcome, version, value = "ok", 0, None
        if result is not None:
            version, value = result.version, result.value.decode()
            self._known[key] = version
        elif isinstance(error, NotFound):
            outcome = "not_found"
            self._known[key] = 0
        else:
            outcome = "unknown"
        self._note(kind, key, invoked, outcome, value, version, None, error)
        then()

    def _note(
        self,
        kind: Any,
        key: str,
        invoked: int,
        outcome: Any,
        value: str | None,
        version: int,
        condition: int | None,
        error: KdhtError | None,
    ) -> None:
        self._world.history.append(
            Operation(
                client=self.name,
                kind=kind,
                key=key,
                invoked_ns=invoked,
                returned_ns=self._now(),
                outcome=outcome,
                value=value,
                version=version,
                condition=condition,
                error="" if error is None or outcome in ("not_found", "conflict") else str(error),
            )
        )

    def _now(self) -> int:
        return int((self._world.network.now - START) * 1e9)
