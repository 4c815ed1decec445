"""What goes wrong, and when: a plan without end that one seed gives."""

import random
from collections.abc import Iterator, Sequence

import msgspec

KINDS = (
    "calm",
    "loss",
    "delay",
    "duplicate",
    "pause",
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
"""What cannot be done to nodes on loopback."""
DIVIDES = frozenset({"halves"})
"""After these no key is a register any more: two groups of nodes, each with enough to confirm writes."""
STEPS = frozenset({"loss", "delay", "duplicate", "skew"})
"""What may go on beneath another fault."""


class Act(msgspec.Struct, frozen=True):
    """One fault, after `rest` seconds without, for `lasts` seconds."""

    kind: str
    nodes: tuple[str, ...]
    """Those that it happens to."""
    rest: float
    lasts: float
    amount: float = 0.0
    """Share of datagrams, in a thousand; milliseconds; or seconds of a clock."""
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
        if act.kind not in STEPS and beneath and rng.random() < 0.35:
            act = msgspec.structs.replace(act, beneath=_act(rng, rng.choice(beneath), nodes))
        yield act


def _act(rng: random.Random, kind: str, nodes: Sequence[str]) -> Act:
    some = tuple(sorted(rng.sample(list(nodes), rng.randint(1, len(nodes)))))
    one = (rng.choice(list(nodes)),)
    two = tuple(sorted(rng.sample(list(nodes), 2)))
    rest, lasts = rng.uniform(0.2, 3.0), rng.uniform(1.0, 6.0)
    amount, more = rng.random(), rng.random()
    match kind:
        case "loss":
            return Act(kind, (), rest, lasts, 10 + 190 * amount)
        case "delay":
            return Act(kind, some, rest, lasts, 40 * amount, 200 * more)
        case "duplicate":
            return Act(kind, some, rest, lasts, 50 + 450 * amount, 3000 * more)
        case "pause":
            return Act(kind, one if amount < 0.7 else two, rest, 0.3 + 4.7 * more)
        case "kill":
            return Act(kind, one, rest, 10 * amount)
        case "kill-two":
            return Act(kind, two, rest, 6 * amount)
        case "cut-off":
            return Act(kind, one, rest, lasts + 4 * amount)
        case "one-way":
            return Act(kind, some[: max(len(nodes) // 2, 1)], rest, lasts)
        case "halves":
            return Act(
                kind, tuple(sorted(rng.sample(list(nodes), len(nodes) // 2))), rest, lasts + 4 * amount
            )
        case "skew":
            return Act(kind, some, rest, lasts, (2 * amount - 1) * 20 * more)
        case "drain":
            return Act(kind, one, rest, 3 * amount)
        case _:
            return Act(kind, (), rest, lasts)
