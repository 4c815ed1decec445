"""All states that a setting of the model can come to, breadth first, until one breaks the promise."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from histories.joins.model import Rule, Setting, State, broken, successors


class Found(NamedTuple):
    """`broken`: the broken promise, or empty; `trace`: the fewest steps that lead there."""

    states: int
    complete: bool
    """Whether all states were seen."""
    broken: str = ""
    trace: tuple[str, ...] = ()


def search(setting: Setting, rule: Rule, most: int = 1_000_000) -> Found:
    """Look at up to `most` states."""
    first = setting.first()
    came: dict[State, tuple[State, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        state = queue.popleft()
        for name, following in successors(setting, rule, state):
            if following in came:
                continue
            came[following] = state, name
            what = broken(setting, rule, following)
            if what:
                return Found(len(came), False, what, _trace(came, following))
            if len(came) >= most:
                return Found(len(came), False)
            queue.append(following)
    return Found(len(came), True)


def _trace(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    while (before := came[state]) is not None:
        state, name = before
        steps.append(name)
    return tuple(reversed(steps))


def follow(setting: Setting, rule: Rule, names: Sequence[str]) -> tuple[State, str]:
    """The state after these steps, and its broken promise. Steps that the rule forbids are left out."""
    state = setting.first()
    for name in names:
        state = dict(successors(setting, rule, state)).get(name, state)
    return state, broken(setting, rule, state)
