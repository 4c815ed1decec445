"""What one virtual history is made of, as plain data: it can be drawn from a seed, made smaller, printed and run again."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

REPLICAS = 3


class Fault(NamedTuple):
    """Something that goes wrong at `at`, seconds after the start, and is over at `until`.

    `kind`: kill (the node is started again at the end), pause, isolate (from all others, clients included if
    `amount`), cut (one way, from the first node to the second), loss, duplicate, late (a copy comes up to three
    seconds later; all with the probability `amount`), slow (each datagram takes up to `amount` seconds), join (nodes that were not there, with no end) and drain.
    """

    at: float
    until: float
    kind: str
    nodes: tuple[int, ...] = ()
    amount: float = 0.0

    def __str__(self) -> str:
        who = "".join(f" n{node}" for node in self.nodes)
        amount = f" {self.amount:g}" if self.amount else ""
        until = "" if self.kind in ENDLESS else f" until {self.until:.3f}"
        return f"{self.at:.3f}{until} {self.kind}{who}{amount}"


ENDLESS = frozenset({"join", "drain"})


class Action(NamedTuple):
    """What a client does `pause` seconds after its last operation has ended."""

    client: int
    pause: float
    kind: str
    """put, get, quorum_get, delete; cas, cas_delete (of the version seen last), create (where there is none), add (a
    quorum read, then a cas)."""
    key: str

    def __str__(self) -> str:
        return f"c{self.client} +{self.pause:.3f} {self.kind} {self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """One run. Nodes are numbers from 1; `skews` and `client_skews` are how far clocks are ahead, seconds."""

    seed: int
    profile: str
    nodes: int
    skews: dict[int, float] = field(default_factory=dict)
    client_skews: tuple[float, ...] = (0.0, 0.0, 0.0)
    entries: tuple[tuple[int, ...], ...] = ()
    """The nodes that each client asks, in its order."""
    spread: tuple[int, ...] = ()
    """The clients whose reads go to any replica."""
    faults: tuple[Fault, ...] = ()
    actions: tuple[Action, ...] = ()

    @property
    def most_nodes(self) -> int:
        """Those that join too."""
        joined = [node for fault in self.faults if fault.kind == "join" for node in fault.nodes]
        return max([self.nodes, *joined])

    def __str__(self) -> str:
        skews = ", ".join(f"n{node} {skew:+.3f}" for node, skew in self.skews.items() if skew) or "none"
        clients = ", ".join(f"c{n} {skew:+.3f}" for n, skew in enumerate(self.client_skews) if skew) or "none"
        entries = "; ".join(
            f"c{n}: {' '.join(f'n{node}' for node in nodes)}" for n, nodes in enumerate(self.entries)
        )
        lines = [
            f"seed {self.seed}, profile {self.profile}, {self.nodes} nodes",
            f"clocks ahead, s: {skews}; of clients: {clients}",
            f"entry nodes: {entries}",
            f"reads go to any replica: {' '.join(f'c{n}' for n in self.spread) or 'none'}",
            *(f"fault  {fault}" for fault in self.faults),
            *(f"action {action}" for action in self.actions),
        ]
        return "\n".join(lines)


Mixes = dict[str, tuple[str, ...]]

MIXES: Mixes = {
    "register": ("put", "put", "get", "quorum_get", "quorum_get", "delete", "put"),
    "counter": ("add", "add", "add", "quorum_get", "get"),
    "mixed": ("put", "cas", "cas", "create", "delete", "cas_delete", "get", "quorum_get", "add"),
}
"""The operations of one key, each as likely as the others."""
SESSIONS: Mixes = {
    "session": ("put", "put", "delete", "get", "get", "get", "get"),
    "deleted": ("put", "delete", "get", "get"),
}
"""Reads of what the client itself has just written or deleted."""


QUORUM: Mixes = {
    "register": ("put", "put", "quorum_get", "quorum_get", "quorum_get"),
    "counter": ("add", "quorum_get"),
}
"""Promises that hold at every node, those that were away too."""


CONDITIONS: Mixes = {
    "counter": ("add", "add", "quorum_get"),
    "mixed": ("put", "cas", "cas", "create", "quorum_get", "add"),
}
"""Mostly writes that are refused where no majority is heard."""


def draw(seed: int, profile: str | None = None) -> Schedule:
    """The schedule of a seed."""
    rng = Random(f"schedule {seed}")
    drawn = rng.choice(OFTEN)
    is_refusing = Random(f"refusing {seed}").randrange(REFUSING) == 0
    chosen = profile or ("refusing" if is_refusing else drawn)
    made = PROFILES[chosen]
    nodes = made.nodes(rng)
    clients = 3
    actions = _actions(rng, clients, made)
    length = _length(actions)
    faults = made.faults(rng, nodes, length)
    schedule = Schedule(
        seed=seed, profile=chosen, nodes=nodes, faults=tuple(sorted(faults)), actions=tuple(actions)
    )
    everybody = range(1, schedule.most_nodes + 1)
    most_skew = rng.choice((0.0, 0.05, 0.5, 3.0))
    skews = {node: round(rng.uniform(-most_skew, most_skew), 3) for node in everybody}
    client_skews = tuple(round(rng.uniform(-most_skew, most_skew), 3) for _ in range(clients))
    first = range(1, nodes + 1)
    entries = tuple(tuple(rng.sample(first, rng.randint(1, nodes))) for _ in range(clients))
    return Schedule(
        seed=seed,
        profile=chosen,
        nodes=nodes,
        skews=skews,
        client_skews=client_skews,
        entries=entries,
        spread=_spread(seed, clients, made.spread),
        faults=schedule.faults,
        actions=schedule.actions,
    )


def _spread(seed: int, clients: int, probability: float) -> tuple[int, ...]:
    rng = Random(f"spread {seed}")
    return tuple(client for client in range(clients) if rng.random() < probability)


def _actions(rng: Random, clients: int, profile: "Profile") -> list[Action]:
    keys = {}
    for number in range(rng.randint(1, profile.keys)):
        mix = rng.choice(tuple(profile.mixes))
        keys[f"{mix}-{number}"] = profile.mixes[mix]
    hurry = rng.choice(profile.pauses)
    found = []
    for client in range(clients):
        for _ in range(rng.randint(profile.least, 2 * profile.least)):
            key = rng.choice(tuple(keys))
            found.append(Action(client, round(rng.expovariate(1 / hurry), 3), rng.choice(keys[key]), key))
    return found


def _length(actions: list[Action]) -> float:
    """About how long the clients take, if nothing is in their way."""
    return max(
        sum(a.pause + 0.03 for a in actions if a.client == client) for client in {a.client for a in actions}
    )


def _span(rng: Random, length: float, most: float = 6.0) -> tuple[float, float]:
    at = rng.uniform(0, length)
    return round(at, 3), round(at + min(rng.expovariate(1 / 1.2) + 0.02, most), 3)


def _network(rng: Random, length: float) -> list[Fault]:
    """Loss, duplicates, slow ways: of the whole network, now and then all the time."""
    found = []
    for kind, amounts in (
        ("loss", (0.02, 0.05, 0.1, 0.2, 0.3)),
        ("duplicate", (0.05, 0.3)),
        ("late", (0.05, 0.2)),
        ("slow", (0.03, 0.1, 0.4)),
    ):
        if rng.random() < 0.4:
            span = (0.0, round(length + 2, 3)) if rng.random() < 0.5 else _span(rng, length)
            found.append(Fault(*span, kind, (), rng.choice(amounts)))
    return found


def _of_nodes(rng: Random, nodes: int, length: float, most: int) -> list[Fault]:
    found = []
    for _ in range(rng.randint(0, most)):
        kind = rng.choice(("kill", "kill", "pause", "pause", "pause", "isolate", "cut", "cut"))
        chosen = tuple(rng.sample(range(1, nodes + 1), 2 if kind == "cut" else 1))
        found.append(
            Fault(*_span(rng, length), kind, chosen, float(rng.random() < 0.3 and kind == "isolate"))
        )
    return found


def _fixed(rng: Random, nodes: int, length: float) -> list[Fault]:
    """As many nodes as replicas: majorities meet under all faults."""
    return _network(rng, length) + _of_nodes(rng, nodes, length, 4)


def _calm(rng: Random, nodes: int, length: float) -> list[Fault]:
    """More nodes than replicas, and the network alone is bad."""
    return _network(rng, length)


def _one_by_one(rng: Random, nodes: int, length: float) -> list[Fault]:
    """More nodes than replicas, and one of them at a time is away."""
    faults = _of_nodes(rng, nodes, length, 1)
    if rng.random() < 0.2:
        faults = [Fault(round(rng.uniform(0, length), 3), 0.0, "drain", (rng.randint(1, nodes),))]
    return _network(rng, length)[:1] + faults


def _growth(rng: Random, nodes: int, length: float) -> list[Fault]:
    """Several nodes join at once."""
    count = rng.randint(1, 3)
    at = round(rng.uniform(0, length / 2), 3)
    joins = [
        Fault(round(at + rng.random() * rng.choice((0.0, 0.5, 3.0)), 3), 0.0, "join", (nodes + 1 + n,))
        for n in range(count)
    ]
    return joins + [fault for fault in _network(rng, length) if fault.amount <= 0.05]


def _together(rng: Random, nodes: int, length: float) -> list[Fault]:
    """As many nodes as there are, or twice as many, start at one moment. They cannot talk to one of those that were there."""
    at = round(rng.uniform(0, 1.0), 3)
    joining = range(nodes + 1, nodes + 1 + nodes * rng.randint(1, 2))
    away, until = rng.randint(1, nodes), round(at + rng.uniform(2.0, 5.0), 3)
    cuts = [
        Fault(round(at + rng.uniform(0.2, 0.8), 3), until, "cut", link)
        for new in joining
        for link in ((new, away), (away, new))
    ]
    return (
        [Fault(at, 0.0, "join", (new,)) for new in joining]
        + rng.choice(([], cuts))
        + _network(rng, length)[:1]
    )


def _lagging(rng: Random, nodes: int, length: float) -> list[Fault]:
    """A replica does not hear of some writes, and answers clients, now and then alone: all others are paused."""
    found = _network(rng, length)[:1]
    for _ in range(rng.randint(1, 3)):
        behind = rng.randint(1, nodes)
        others = [node for node in range(1, nodes + 1) if node != behind]
        at = round(rng.uniform(0, length * 0.7), 3)
        until = round(at + rng.uniform(0.2, 2.0), 3)
        deaf_to = others if rng.random() < 0.6 else rng.sample(others, 1)
        found += [Fault(at, until, "cut", (source, behind)) for source in deaf_to]
        if rng.random() < 0.7:
            alone = round(rng.uniform(at, until), 3)
            ends = round(alone + rng.uniform(0.1, 1.5), 3)
            found += [Fault(alone, ends, "pause", (node,)) for node in others]
    return found


def _all_restart(rng: Random, nodes: int, length: float) -> list[Fault]:
    """All nodes are killed together, once or twice, and start again in any order."""
    found = _network(rng, length)[:1]
    for _ in range(rng.randint(1, 2)):
        at = rng.uniform(0, length)
        for node in range(1, nodes + 1):
            dies = at + rng.random() * rng.choice((0.0, 0.01, 0.5))
            found.append(
                Fault(round(dies, 3), round(dies + 0.05 + rng.expovariate(1 / 0.8), 3), "kill", (node,))
            )
    return found


def _cut_off(rng: Random, nodes: int, length: float) -> list[Fault]:
    """A node is away until another one has its place. When it is back, a replica lacks what was written last."""
    away, deaf = rng.sample(range(1, nodes + 1), 2)
    at = rng.uniform(0, 0.5)
    back = at + rng.uniform(2.6, 5.0)
    lacks = back - rng.uniform(0.1, 1.5), back + rng.uniform(-0.1, 0.3)
    return [
        Fault(round(at, 3), round(back, 3), "isolate", (away,)),
        Fault(round(lacks[0], 3), round(lacks[1], 3), "isolate", (deaf,)),
    ]


def _late(rng: Random, nodes: int, length: float) -> list[Fault]:
    """Nothing is lost, and copies of all messages come when others have followed."""
    return [Fault(0.0, round(length + 2, 3), "late", (), rng.choice((0.1, 0.3)))]


def _stand_in(rng: Random, nodes: int, length: float) -> list[Fault]:
    """A node hears only some of the others. A moment later these hear one another, and not that node."""
    found = []
    for n in range(2):
        at = rng.uniform(0, 0.6) + 2.5 * n
        turns = at + rng.uniform(0.1, 0.8)
        alone, *others = rng.sample(range(1, nodes + 1), 3)
        for other in others:
            found += [
                Fault(round(at, 3), round(turns, 3), "cut", link) for link in ((alone, other), (other, alone))
            ]
        turns -= rng.choice((0.0, 0.02, 0.2))
        found.append(
            Fault(round(turns, 3), round(turns + rng.uniform(0.2, 1.0), 3), "isolate", (alone,), 1.0)
        )
    return found


def _refusing(rng: Random, nodes: int, length: float) -> list[Fault]:
    """All nodes restart and find nobody: whatever was under way has no answer, and its later tries are refused."""
    found = []
    at = rng.uniform(0.05, 0.3)
    for _ in range(2):
        until = at + rng.uniform(4.0, 5.0)
        for node in range(1, nodes + 1):
            dies = at + rng.uniform(0, 0.004)
            found.append(Fault(round(dies, 3), round(dies + rng.uniform(0.02, 0.1), 3), "kill", (node,)))
            found.append(Fault(round(at - 0.01 * rng.random(), 3), round(until, 3), "isolate", (node,)))
        at = until + rng.uniform(0.5, 1.0)
    return found


class Profile(NamedTuple):
    nodes: Callable[[Random], int]
    """At the start."""
    faults: Callable[[Random, int, float], list[Fault]]
    mixes: Mixes = MIXES
    pauses: tuple[float, ...] = (0.005, 0.05, 0.3)
    """Seconds between a client's operations, about: one of these."""
    least: int = 4
    """Operations of a client; at most twice as many."""
    keys: int = 3
    """At most."""
    spread: float = 0.4
    """The probability that a client's reads go to any replica."""


PROFILES: dict[str, Profile] = {
    "fixed": Profile(lambda rng: 3, _fixed),
    "calm": Profile(lambda rng: rng.randint(4, 5), _calm),
    "one by one": Profile(lambda rng: rng.randint(4, 5), _one_by_one),
    "growth": Profile(lambda rng: 3, _growth),
    "together": Profile(lambda rng: 3, _together, MIXES, (0.05, 0.1), 30),
    "sessions": Profile(lambda rng: rng.randint(3, 4), _lagging, SESSIONS, (0.005, 0.05), 8, 1, 0.8),
    "all restart": Profile(lambda rng: rng.randint(3, 4), _all_restart),
    "late": Profile(lambda rng: 3, _late, pauses=(0.1, 0.3), keys=2),
    "stand-in": Profile(lambda rng: 4, _stand_in, QUORUM, (0.02, 0.05), 15, 2),
    "cut off": Profile(lambda rng: 4, _cut_off, QUORUM, (0.1, 0.2), 25),
    "refusing": Profile(lambda rng: 3, _refusing, CONDITIONS, (0.005, 0.02), 30, 2),
}

OFTEN = ("fixed", "fixed", "fixed", *(name for name in PROFILES if name not in ("together", "refusing")))
"""Of which a seed draws one. The first has the most faults, costs least, and comes four times. The cost of one with many joins is that
of five others."""
REFUSING = 16
"""One seed of so many has the profile `refusing`, whatever it draws. Were it among the others, all seeds would give other schedules."""
