"""Linearizability of one register: a search for an order of its operations (Wing and Gong, 1993).

Each operation has to take effect at one moment between its call and its return. The search keeps the
configurations that it has seen (Lowe, "Testing for linearizability", 2017), so that no two orders of the
same operations that end in the same state are both followed.

A step may need a state (a read, a condition) and may set one (a write). Every state but ABSENT is set by
one step only, since every write has a value of its own. That makes the search short:

- A read of the current state is taken at once: it can do no harm.
- No state is overwritten while a step that needs it is still to come, for it will not come back.
- A write with an unknown outcome (`optional`) is taken right before the first step that needs its
  state. Without such a step it may as well never have happened.
"""

from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

ABSENT = 0
BUDGET = 2_000_000
"""Configurations until a search is given up. It then reports that it could not decide."""


class Step(NamedTuple):
    start: float
    end: float
    needs: int | None
    sets: int | None
    optional: bool = False


class Configuration(NamedTuple):
    """The steps before `front` are taken, and those of the bits of `taken`, counted from `front`."""

    front: int
    taken: int
    state: int
    used: int
    """The optional steps that were taken, as bits."""


class Result(NamedTuple):
    """`stuck` has the configuration that got furthest, and the step that it could not take."""

    linearizable: bool | None
    """None: not decided within the budget."""
    stuck: tuple[Configuration, Step] | None = None


def search(steps: Sequence[Step], budget: int = BUDGET, initial: int = ABSENT) -> Result:
    """Whether there is an order of all steps that are not optional, with optional ones where they help."""
    return _Search(steps).run(budget, initial)


class _Search:
    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = sorted((step for step in steps if not step.optional), key=lambda step: step.start)
        self.optional = [step for step in steps if step.optional]
        self.needing: dict[int, list[int]] = {}
        for index, step in enumerate(self.steps):
            if step.needs not in (None, ABSENT):
                self.needing.setdefault(step.needs or 0, []).append(index)
        self.setting: dict[int, list[int]] = {}
        for index, step in enumerate(self.optional):
            self.setting.setdefault(step.sets or ABSENT, []).append(index)

    def run(self, budget: int, initial: int) -> Result:
        first = Configuration(0, 0, initial, 0)
        seen = {first}
        stack = [first]
        furthest = first
        while stack:
            configuration = stack.pop()
            if configuration.front == len(self.steps):
                return Result(True)
            if configuration.front >= furthest.front:
                furthest = configuration
            for following in self._following(configuration):
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
            if len(seen) > budget:
                return Result(None, (furthest, self.steps[furthest.front]))
        return Result(False, (furthest, self.steps[furthest.front]))

    def _following(self, at: Configuration) -> list[Configuration]:
        """What may come next, the one to try first at the end."""
        candidates, bound = self._candidates(at)
        for index in candidates:
            step = self.steps[index]
            if step.sets is None and step.needs in (None, at.state):
                return [self._after(at, index, at.state, at.used)]
        found = []
        for index in candidates:
            step = self.steps[index]
            used: int | None = at.used
            if step.needs is not None and step.needs != at.state:
                used = self._made(step.needs, at, at.state, at.used, bound)
                if used is None:
                    continue
            if not self._is_needed(at, but=index):
                state = step.sets if step.sets is not None else step.needs
                found.append(self._after(at, index, state or ABSENT, used or 0))
        found.reverse()
        return found

    def _candidates(self, at: Configuration) -> tuple[list[int], float]:
        """The steps that may be next, the first to return first; and when the first of them returned."""
        bound = inf
        found = []
        index, taken = at.front, at.taken
        while index < len(self.steps):
            step = self.steps[index]
            if step.start >= bound:
                break
            if not taken & 1:
                found.append(index)
                bound = min(bound, step.end)
            taken >>= 1
            index += 1
        found = [index for index in found if self.steps[index].start < bound]
        return sorted(found, key=lambda index: self.steps[index].end), bound

    def _made(self, state: int, at: Configuration, now: int, used: int, bound: float) -> int | None:
        """The optional steps used up once `state` is there by means of some of them; None if it cannot be."""
        for index in self.setting.get(state, ()):
            step = self.optional[index]
            if used >> index & 1 or step.start >= bound:
                continue
            with_this = used | 1 << index
            if step.needs is None or step.needs == now:
                return with_this
            if (before := self._made(step.needs, at, now, with_this, bound)) is not None:
                return before
        return None

    def _is_needed(self, at: Configuration, but: int) -> bool:
        """Whether another step still needs the current state."""
        return any(
            index != but and index >= at.front and not at.taken >> (index - at.front) & 1
            for index in self.needing.get(at.state, ())
        )

    def _after(self, at: Configuration, index: int, state: int, used: int) -> Configuration:
        taken = at.taken | 1 << (index - at.front)
        front = at.front
        while taken & 1:
            taken >>= 1
            front += 1
        return Configuration(front, taken, state, used)


def pending(steps: Sequence[Step], at: Configuration) -> Iterator[Step]:
    """The first steps not taken by a configuration, for the message of a violation."""
    definite = sorted((step for step in steps if not step.optional), key=lambda step: step.start)
    for index in range(at.front, min(at.front + 6, len(definite))):
        if not at.taken >> (index - at.front) & 1:
            yield definite[index]
