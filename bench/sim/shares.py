"""How evenly keys lie on nodes: with random IDs, and with IDs chosen by newcomers (kdht.node.place.survey).

No messages are simulated, and tables are as good as they get. Newcomers that come together look at the same nodes, each with
its own questions; each gap lets one of them in, and the others look again when those have joined, as Claims and Chooser do.
"""

import time
from bisect import insort
from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from typing import Any

from kdht.node.place.choice import MAX_CLAIMS, PARALLEL
from kdht.node.place.shares import halves, kept, least_greatest, move_that_helps, owned
from kdht.node.place.survey import Survey, SurveyQuestion
from kdht.wire import Address, Contact
from kdht.wire._shared import ID_BITS, ID_LEN, PORT, K

FIRST = 3
"""Nodes that there are before others come together: their IDs are by chance."""
IN_VAIN = 8
"""So many newcomers in a row that find no gap end a round."""
DYING = 1 / 3
ROUNDS = 3
ANYWHERE = Address.of("10.0.0.1", PORT)


class Nodes:
    """All nodes' IDs, and their answers."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(f"shares {seed}")
        self.ids: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def come_by_chance(self) -> None:
        insort(self.ids, self.rng.getrandbits(ID_BITS))

    def come(self) -> None:
        """One newcomer."""
        if self.ids:
            self._join(self._survey().gaps()[0].middle(self.rng))
        else:
            self.come_by_chance()

    def come_together(self, count: int) -> None:
        """So many newcomers that start at once."""
        while count:
            granted: dict[Contact, bytes] = {}
            in_vain = 0
            while len(granted) < count and in_vain < IN_VAIN:
                in_vain = 0 if self._is_let_in(granted) else in_vain + 1
            for id in granted.values():
                self._join(id)
            count -= len(granted)

    def _is_let_in(self, granted: dict[Contact, bytes]) -> bool:
        """Whether one more newcomer finds a gap that nobody was let into yet."""
        survey = self._survey()
        depth = survey.gaps()[0].depth
        for _ in range(MAX_CLAIMS):
            gap = survey.gaps()[0]
            if gap.depth > depth:
                return False
            if gap.owner not in granted:
                granted[gap.owner] = gap.middle(self.rng)
                return True
            survey.is_taken(gap)
        return False

    def die(self, part: float) -> int:
        """So many die, at random; how many."""
        dying = self.rng.sample(self.ids, round(part * len(self.ids)))
        self.ids = sorted(set(self.ids).difference(dying))
        return len(dying)

    def move_until_even(self) -> int:
        """Follow the proposals of `kdhtctl cluster` until there is none. Returns the number of moves."""
        moves = 0
        while (move := move_that_helps(self.ids)) is not None:
            del self.ids[move[0]]
            self.come()
            moves += 1
        return moves

    def figures(self, replicas: int) -> dict[str, float]:
        """The greatest and the least, as multiples of the mean."""
        count = len(self.ids)
        owners, keepers = owned(self.ids), kept(self.ids, min(replicas, count))
        mean_kept = sum(keepers) / count
        return {
            "owner": max(owners) * count,
            "owner_least": min(owners) * count,
            "of_the_possible": max(owners) * count / least_greatest(count),
            "keeper": max(keepers) / mean_kept,
            "keeper_least": min(keepers) / mean_kept,
        }

    def _survey(self) -> Survey:
        survey = Survey(self.rng)
        survey.learn([_contact(self.rng.choice(self.ids))])
        while questions := survey.questions(PARALLEL):
            for question in questions:
                survey.answered(question, self.closest(question))
        return survey

    def closest(self, question: SurveyQuestion) -> list[Contact]:
        """The k nodes closest to the target, without the asked node."""
        target, asked = (int.from_bytes(id, "big") for id in (question.target, question.contact.id))
        found: list[int] = []

        def walk(first: int, last: int) -> None:
            if len(found) >= K:
                return
            if last - first == 1:
                found.extend(id for id in self.ids[first:last] if id != asked)
                return
            bit, middle = halves(self.ids, first, last)
            parts = [(first, middle), (middle, last)]
            for part in reversed(parts) if target >> (ID_BITS - 1 - bit) & 1 else parts:
                walk(*part)

        walk(0, len(self.ids))
        return [_contact(id) for id in found]

    def _join(self, id: bytes) -> None:
        insort(self.ids, int.from_bytes(id, "big"))


def _contact(id: int) -> Contact:
    return Contact(id.to_bytes(ID_LEN, "big"), *ANYWHERE)


Moments = dict[str, dict[str, float]]


def _by_chance(count: int, seed: int, replicas: int) -> Moments:
    nodes = Nodes(seed)
    for _ in range(count):
        nodes.come_by_chance()
    return {"": nodes.figures(replicas)}


def _one_by_one(count: int, seed: int, replicas: int) -> Moments:
    nodes = Nodes(seed)
    worst: list[float] = []
    for number in range(1, count + 1):
        nodes.come()
        worst.append(max(owned(nodes.ids)) * number / least_greatest(number))
    return {"": {**nodes.figures(replicas), "worst_on_the_way": max(worst)}}


def _together(count: int, seed: int, replicas: int) -> Moments:
    nodes = Nodes(seed)
    for _ in range(min(FIRST, count)):
        nodes.come_by_chance()
    nodes.come_together(count - len(nodes))
    return {"": nodes.figures(replicas)}


def _churn(count: int, seed: int, replicas: int) -> Moments:
    """Deaths and as many newcomers, several times; then deaths alone, and moves."""
    nodes = Nodes(seed)
    for _ in range(count):
        nodes.come()
    for _ in range(ROUNDS):
        dead = nodes.die(DYING)
        for _ in range(dead):
            nodes.come()
    found = {"replaced": nodes.figures(replicas)}
    nodes.die(DYING)
    found["died"] = nodes.figures(replicas)
    moves = nodes.move_until_even()
    found["moved"] = {**nodes.figures(replicas), "moves": moves}
    return found


WAYS: dict[str, Callable[[int, int, int], Moments]] = {
    "by chance": _by_chance,
    "one by one": _one_by_one,
    "together": _together,
    "churn": _churn,
}


def run(
    nodes: int, seeds: Sequence[int], replicas: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Clusters of so many nodes, by each way, once for each seed: the median and the worst of all."""
    begun = time.perf_counter()
    ways: dict[str, Any] = {}
    for name, way in WAYS.items():
        found: dict[str, list[dict[str, float]]] = {}
        for seed in seeds:
            for moment, figures in way(nodes, seed, replicas).items():
                found.setdefault(f"{name}, {moment}" if moment else name, []).append(figures)
            progress(1)
        ways |= {moment: _summary(all_figures) for moment, all_figures in found.items()}
    return {
        "nodes": nodes,
        "replicas": replicas,
        "seeds": list(seeds),
        "least_possible": least_greatest(nodes),
        "ways": ways,
        "seconds": time.perf_counter() - begun,
    }


def _summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    names = runs[0].keys()
    return {
        name: {
            "median": median(run[name] for run in runs),
            "worst": (min if name.endswith("_least") else max)(run[name] for run in runs),
        }
        for name in names
    }
