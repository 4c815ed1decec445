"""The faults and their times: an endless plan drawn from one seed."""

import random
from collections.abc import Iterator, Sequence

import msgspec

KINDS = (
    "calm",
    "loss",
    "delay",
    "duplicate",
    "pause",
    "pause-clients",
    "kill",
    "kill-two",
    "restart-all",
    "cut-off",
    "one-way",
    "halves",
    "skew",
    "drain",
    "join",
)
NEEDS_BRIDGE = frozenset({"loss", "delay", "duplicate", "cut-off", "one-way", "halves"})
"""Faults that are impossible on loopback."""
DIVIDES = frozenset({"halves"})
"""After these no key is a register any more: two groups of nodes, each with enough to confirm writes."""
STEPS = frozenset({"loss", "delay", "duplicate", "skew"})
"""Faults that may last during another one."""

LATE = frozenset({"loss", "delay"})
"""Faults that keep a record from some of its replicas for a while. If two nodes die then, a confirmed write may have been
at those two alone, and docs/guarantees.md promises nothing of it."""


class Act(msgspec.Struct, frozen=True):
    """One fault, after `rest` seconds without, for `lasts` seconds."""

    kind: str
    nodes: tuple[str, ...]
    """Those that it happens to."""
    rest: float
    lasts: float
    amount: float = 0.0
    """Share of datagrams, in a thousand; milliseconds; seconds of a clock; or which of the clients, from 0 to 1."""
    more: float = 0.0
    beneath: "Act | None" = None
    """A fault that goes on meanwhile."""

    def __str__(self) -> str:
        beneath = f", under {self.beneath}" if self.beneath else ""
        numbers = "".join(f" {number:.3g}" for number in (self.amount, self.more) if number)
        return f"{self.kind}{numbers} of {' '.join(self.nodes) or 'all'} for {self.lasts:.1f} s{beneath}"


def acts(seed: int, kinds: Sequence[str], nodes: Sequence[str]) -> Iterator[Act]:
    """One act after the other; a third of them with another fault beneath, if there are such among the kinds."""
    rng = random.Random(f"plan {seed}")
    beneath = [kind for kind in kinds if kind in STEPS]
    while True:
        act = _act(rng, rng.choice(kinds), nodes)
        fitting = [kind for kind in beneath if act.kind != "kill-two" or kind not in LATE]
        if act.kind not in STEPS and fitting and rng.random() < 0.35:
            act = msgspec.structs.replace(act, beneath=_act(rng, rng.choice(fitting), nodes))
        yield act


def client_offsets(seed: int, count: int, kinds: Sequence[str]) -> list[float]:
    """Seconds by which the clients' clocks are ahead, from beginning to end."""
    rng = random.Random(f"clients {seed}")
    return [rng.uniform(-10, 10) if "skew" in kinds else 0.0 for _ in range(count)]


def _act(rng: random.Random, kind: str, nodes: Sequence[str]) -> Act:
    rest, lasts = rng.uniform(0.2, 3.0), rng.uniform(1.0, 6.0)
    amount, more = rng.random(), rng.random()
    names = _nodes(rng, kind, nodes, amount)
    lasts = {
        "pause": 0.3 + 4.7 * more,
        "pause-clients": 0.3 + 2.7 * more,
        "kill": 10 * amount,
        "kill-two": 6 * amount,
        "cut-off": lasts + 4 * amount,
        "halves": lasts + 4 * amount,
        "drain": 3 * amount,
    }.get(kind, lasts)
    numbers = {
        "loss": (10 + 190 * amount, 0.0),
        "delay": (40 * amount, 200 * more),
        "duplicate": (50 + 450 * amount, 3000 * more),
        "pause-clients": (amount, 0.0),
        "skew": ((2 * amount - 1) * 20 * more, 0.0),
    }.get(kind, (0.0, 0.0))
    return Act(kind, names, rest, lasts, *numbers)


def _nodes(rng: random.Random, kind: str, nodes: Sequence[str], amount: float) -> tuple[str, ...]:
    """Those that it happens to; empty for what happens to all, or to none of them."""
    count = {
        "delay": rng.randint(1, len(nodes)),
        "duplicate": rng.randint(1, len(nodes)),
        "skew": rng.randint(1, len(nodes)),
        "pause": 1 if amount < 0.7 else 2,
        "kill": 1,
        "kill-two": 2,
        "cut-off": 1,
        "one-way": 1,
        "halves": len(nodes) // 2,
        "drain": 1,
    }.get(kind, 0)
    return tuple(sorted(rng.sample(list(nodes), count)))
