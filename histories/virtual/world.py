"""Runs a schedule: real nodes and real clients under a virtual clock. The same schedule gives the same history."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from histories import final
from histories.final import Held
from histories.record import Operation, doubted
from histories.virtual.actor import Actor
from histories.virtual.schedule import REPLICAS, Action, Fault, Schedule
from kdht.lab.virtual import Member, VirtualCluster, address_of, id_of
from kdht.lab.virtual.disk import CrashStore
from kdht.node.repair import RepairOptions
from kdht.node.replicas import Policy
from kdht.times import UnixTime
from kdht.wire import Contact, hash_key

DELAY = (0.0005, 0.004)
"""Seconds that a datagram takes, least and most."""
SETTLE_SECONDS = 10.0
"""At most, until all nodes know each other and have compared their records."""
LOOK_SECONDS = 0.05
MOST_SECONDS = 90.0
"""Of the clients' work."""
HEAL_SECONDS = 15.0
"""From the last fault's end to the last reads, at most."""
QUIET_SECONDS = 1.0
"""So long all nodes have been ready, and all disks the same, when healing ends early."""
WHOLE = 8
"""In one schedule of so many healing takes all of its time: what changes a cluster at rest would show there."""
LAST_HEAL_SECONDS = 225.0
"""More, where the disks still differ: the promises of a coordinator that died hold for two minutes, then repair comes within one."""


MICROSECOND = 1e-6
RANDOM_IDS = 4
"""In one schedule of so many IDs are random. In the others they are as a cluster chooses them, which makes fewer ranges."""


class Run(NamedTuple):
    """All operations by the time of their call, the last ones after healing, and the final content of the disks."""

    history: list[Operation]
    held: dict[str, list[Held]]
    replicas: int
    """So many nodes should hold each key."""
    is_late: bool
    """Whether the disks still differed when the last reads had ended."""


def even_id(node: int, seed: int) -> bytes:
    """The ID of a node, in the middle of the widest gap between those with lower numbers."""
    id = id_of(node, seed)
    gap = int(f"{(node - 1) & 15:04b}"[::-1], 2) ^ seed & 15
    return bytes([gap << 4 | id[0] & 15]) + id[1:]


def run(schedule: Schedule) -> Run:
    return _World(schedule).run()


class _World:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.cluster = VirtualCluster(
            schedule.seed,
            policy=Policy(replicas=REPLICAS),
            repair=RepairOptions(replicas=REPLICAS, quiet=0.3, first_delay=0.4),
            new_store=CrashStore,
        )
        self.network = self.cluster.network
        self.network.observer = None  # it counts what nobody here reads
        self.network.delay = DELAY
        self.members: dict[int, Member] = {}
        self.contacts: dict[int, list[Contact]] = {}
        self.active: list[Fault] = []
        self.drained: list[int] = []
        self.history: list[Operation] = []
        self.clients: list[Actor] = []

    def run(self) -> Run:
        schedule, network = self.schedule, self.network
        for node in range(1, schedule.nodes + 1):
            self.start(node)
        self._run_until(self.has_come_to_rest, SETTLE_SECONDS)
        begun = network.now
        for fault in schedule.faults:
            network.call_at(begun + fault.at, self._begin, fault)
        self.clients = [self._client(number) for number in range(len(schedule.entries))]
        for client in self.clients:
            client.next()
        self._run_until(lambda: all(client.done for client in self.clients), MOST_SECONDS)
        last = max((fault.until for fault in schedule.faults), default=0.0)
        if network.now < begun + last:
            network.run(begun + last)
        self._heal()
        self._leave_drained()
        self._look_again()
        is_late = not self._is_same()
        if is_late:
            network.run(network.now + LAST_HEAL_SECONDS)
        history = sorted(self._history, key=lambda operation: operation.invoked_ns)
        return Run(history, self._held(), self._replicas, is_late)

    def _heal(self) -> None:
        """Until the cluster has been at rest for a while."""
        network = self.network
        end = network.now + HEAL_SECONDS
        if self.schedule.seed % WHOLE == 0:
            network.run(end)
        looks = 0
        while network.now < end and looks < 2:
            network.run(network.now + QUIET_SECONDS / 2)
            looks = looks + 1 if self.has_come_to_rest() and self._is_same() else 0

    def _is_same(self) -> bool:
        """Whether all disks have what they should have at the end."""
        return not final.check(self._history, self._held(), self._replicas).violations

    @property
    def _history(self) -> list[Operation]:
        late = any(fault.kind == "late" for fault in self.schedule.faults)
        return doubted(self.history) if late else self.history

    @property
    def _replicas(self) -> int:
        return min(REPLICAS, len(self.cluster.members))

    def _run_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Looks now and then, for a look at each event would take longer than all else."""
        end = self.network.now + seconds
        while self.network.now < end and not condition():
            self.network.run(self.network.now + LOOK_SECONDS)

    def _client(self, number: int) -> Actor:
        schedule = self.schedule
        return Actor(
            self.network,
            number,
            schedule.entries[number],
            [action for action in schedule.actions if action.client == number],
            self.history.append,
            seed=schedule.seed,
            # Their operations begin at whole milliseconds. Two clocks never agree to the microsecond for long.
            skew=schedule.client_skews[number] + number * MICROSECOND,
            spread=number in schedule.spread,
        )

    def _leave_drained(self) -> None:
        """Nodes that gave all away end, as an operator ends them."""
        for node in self.drained:
            if node in self.members and self.members[node].drained:
                self.cluster.kill(self.members.pop(node))

    def has_come_to_rest(self) -> bool:
        members = self.members.values()
        return all(len(m.node.table) == len(members) - 1 and m.node.readiness.ready for m in members)

    # --- Nodes and faults

    def start(self, node: int) -> None:
        others = [member.contact for member in self.cluster.members]
        member = self.cluster.add(
            node,
            bootstrap=others,
            id=even_id(node, self.schedule.seed) if self.schedule.seed % RANDOM_IDS else None,
            skew=self.schedule.skews.get(node, 0.0),
            known=self.contacts.get(node, []),
        )
        self.members[node] = member

    def _begin(self, fault: Fault) -> None:
        if fault.kind == "join":
            for node in fault.nodes:
                self.start(node)
            return
        if fault.kind == "drain":
            if fault.nodes[0] in self.members:
                self.members[fault.nodes[0]].drain()
                self.drained.append(fault.nodes[0])
            return
        if fault.kind in ("kill", "pause") and any(
            each.kind in ("kill", "pause") and each.nodes == fault.nodes for each in self.active
        ):
            return
        self.active.append(fault)
        if fault.kind == "kill":
            member = self.members.pop(fault.nodes[0])
            # As a daemon keeps them on disk: the dead too, so that a node alone knows that it is not the whole cluster.
            self.contacts[fault.nodes[0]] = [*member.node.snapshot(), *member.node.census.gone]
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
        kinds = ("loss", "duplicate", "late", "slow")
        amounts = {kind: [f.amount for f in self.active if f.kind == kind] for kind in kinds}
        network.loss = max(amounts["loss"], default=0.0)
        network.duplicate = max(amounts["duplicate"], default=0.0)
        network.late = max(amounts["late"], default=0.0)
        network.delay = DELAY[0], max([DELAY[1], *amounts["slow"]])
        network.forget_losses()
        for fault in self.active:
            if fault.kind == "cut":
                network.set_loss(address_of(fault.nodes[0]), address_of(fault.nodes[1]), 1.0)
            elif fault.kind == "isolate":
                self._isolate(fault)

    def _isolate(self, fault: Fault) -> None:
        inside = [address_of(node) for node in fault.nodes]
        others = [
            address_of(node) for node in range(1, self.schedule.most_nodes + 1) if node not in fault.nodes
        ]
        if fault.amount:
            others += [client.address for client in self.clients]
        for one in inside:
            for other in others:
                self.network.set_loss(one, other, 1.0)
                self.network.set_loss(other, one, 1.0)

    # --- The end

    def _look_again(self) -> None:
        """Read every key by a quorum through one node, then through every node from the owner."""
        nodes, keys = sorted(self.members), self._keys()
        asked = [(nodes[n % len(nodes)], Action(0, 0.0, "quorum_get", key)) for n, key in enumerate(keys)]
        asked += [(node, Action(0, 0.0, "get", key)) for node in nodes for key in keys]
        for number, node in enumerate(nodes):
            reads = [action for at, action in asked if at == node]
            reader = Actor(
                self.network,
                len(self.clients) + number,
                (node,),
                reads,
                self.history.append,
                seed=self.schedule.seed,
                name=f"final-{node}",
            )
            reader.next()
            self.network.run_while(partial(_works, reader), MOST_SECONDS)

    def _keys(self) -> list[str]:
        return sorted({action.key for action in self.schedule.actions})

    def _held(self) -> dict[str, list[Held]]:
        found: dict[str, list[Held]] = {}
        for key in self._keys():
            for node, member in self.members.items():
                store = self.cluster.stores[node]
                record = store.get(hash_key(key), UnixTime(self.network.now + member.skew))
                if record is not None:
                    value = None if record.deleted else record.value.decode()
                    found.setdefault(key, []).append(Held(f"n{node}", record.version, value))
        return found


def _works(client: Actor) -> bool:
    return not client.done
