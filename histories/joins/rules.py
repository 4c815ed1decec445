"""The rule by which a replica holds itself caught up, as docs/design/replicas.md states it; and the one before."""

from histories.joins.model import AGREED, EQUAL, FRESH, MAJORITY, REPLICAS, SILENT, SOUND, Setting, State


class Former:
    """A range counts as caught up once it was compared with all of today's replicas that answer.

    Three empty nodes that join together find each other equal.
    """

    def has_caught_up(self, setting: Setting, state: State, node: int) -> bool:
        others = setting.ordered(setting.keepers(state, node) & ~(1 << node))
        memory = state.compared[node]
        waiting = [other for other in others if not memory[other] & EQUAL]
        silent = all(memory[other] & SILENT for other in waiting)
        return silent and (len(waiting) < len(others) or not others)

    def agrees(self, setting: Setting, state: State, node: int, other: int) -> bool:
        return True

    def holds(self, setting: Setting, state: State, node: int) -> bool:
        return False

    def falls_behind(self, state: State, node: int) -> bool:
        return False

    def counts(self, setting: Setting, state: State, target: int) -> bool:
        return True

    def misses(self, setting: Setting, state: State, reader: int, below: int) -> bool:
        """Two of today's replicas that have caught up lack it; the others are not heard."""
        if state.records[reader] >= below:
            return False
        keepers = setting.ordered(setting.keepers(state, reader) & state.caught_up & state.alive)
        return sum(state.records[each] < below for each in keepers) >= MAJORITY


class Present:
    """A majority of the closest nodes that have themselves caught up was compared, every other replica too,
    and they see the newcomer among the replicas. Who is pushed out answers on until all replicas have caught up."""

    def has_caught_up(self, setting: Setting, state: State, node: int) -> bool:
        memory = state.compared[node]
        order = setting.ordered(state.views[node])
        keepers = setting.keepers(state, node)
        if not order:
            return False  # it was cut off, and one node alone confirms nothing (cut_off.py)
        need = min(REPLICAS, len(order)) // 2 + 1
        sound = 0
        for other in order:
            said = memory[other]
            if keepers >> other & 1 and not (said & SILENT or (said & EQUAL and said & AGREED)):
                return False
        stage = 2 * REPLICAS
        for place, other in enumerate(order, start=1):
            said = memory[other]
            sound += bool(said & SOUND)
            if not said & (SOUND | SILENT | FRESH):
                return False
            if place == stage:
                if sound >= need:
                    return True
                stage *= 2
        if sound >= need:
            return True
        return all(memory[each] & EQUAL or (memory[each] & SILENT and sound) for each in order)

    def agrees(self, setting: Setting, state: State, node: int, other: int) -> bool:
        theirs = setting.keepers(state, other)
        if not theirs >> node & 1:
            return False
        version, coordinator = state.writing[:2]
        if version and coordinator == other and not setting.targets(state) >> node & 1:
            return False  # its writes and reads with an older view have not ended
        own = setting.keepers(state, node)
        unknown = theirs & ~own
        if not unknown:
            return True
        place = {each: n for n, each in enumerate(setting.order)}
        farthest = max(place[each] for each in setting.ordered(own))
        return own.bit_count() >= REPLICAS and all(
            place[each] > farthest for each in setting.ordered(unknown)
        )

    def holds(self, setting: Setting, state: State, node: int) -> bool:
        return True

    def falls_behind(self, state: State, node: int) -> bool:
        return not state.views[node]

    def counts(self, setting: Setting, state: State, target: int) -> bool:
        return bool((state.caught_up | state.held) >> target & 1)

    def misses(self, setting: Setting, state: State, reader: int, below: int) -> bool:
        """Two of the closest that do not say that they have not caught up lack it: those that say so are heard, too."""
        if state.records[reader] >= below:
            return False
        answers = state.caught_up | state.held
        if not state.caught_up >> reader & 1:
            answers &= ~(1 << reader)
        order = setting.ordered(state.views[reader] | 1 << reader)
        seated = [
            each
            for each in order
            if not (state.alive >> each & 1 and not answers >> each & 1 and state.records[each] < below)
        ][:REPLICAS]
        lacking = [
            each for each in seated if answers & state.alive & 1 << each and state.records[each] < below
        ]
        return len(lacking) >= MAJORITY


class AnybodyConfirms(Present):
    """Every node that took a write confirms it, caught up or not."""

    def counts(self, setting: Setting, state: State, target: int) -> bool:
        return True
