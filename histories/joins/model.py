"""An abstract cluster and one key: who knows whom, who has the record, who takes itself for caught up.

Nodes 0 to `old - 1` were there first: they know each other, have caught up and, if `holders`, hold the value of version 1,
which is acknowledged. The others have just found them, and are not known yet. A state is a tuple of small numbers (`State`); `successors` has all that may come
next, in any order: who learns of whom, who compares with whom, a write's steps, deaths, a cut through the network.

What takes time here, messages, comparisons, look-ups, are single steps that may come at any moment, or never. What
the model leaves out: clocks, digests (a comparison brings everything), nodes that were away and start over.

The rules themselves, `Rule`, are given: `rules` has the present one and the one before. A state breaks the promise
(`broken`) if some node that takes itself for a replica may answer NOT_FOUND, or take if_version=0, though an
acknowledged write stands; or may answer a quorum read with less than what was acknowledged.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

REPLICAS = 3
MAJORITY = 2

# What a node remembers of a comparison with another one: bits.
EQUAL = 1
"""It has all that the other one had."""
AGREED = 2
"""The other one saw it among the replicas, and no replica that it does not know."""
SOUND = 4
"""The other one had caught up, and they agreed."""
FRESH = 8
"""The other one said that it had not caught up."""
SILENT = 16
"""The other one did not answer."""


class State(NamedTuple):
    """Sets of nodes are bits. `records` are versions, 0 for none."""

    alive: int
    views: tuple[int, ...]
    """The others that each node knows."""
    records: tuple[int, ...]
    caught_up: int
    held: int
    """Were replicas, and answer as such until those that are now have all caught up."""
    compared: tuple[tuple[int, ...], ...]
    """By node and other node; all 0 for one that has caught up."""
    acknowledged: int
    """The greatest version that a client was told of."""
    writing: tuple[int, int, int, int, int]
    """The write under way: its version (0: none), its coordinator, the nodes known there, the holders, the counted ones."""
    side: int
    """Of a divided network: the nodes on one side."""
    deaths: int
    writes: int
    """That may still come."""
    cuts: int


@dataclass(frozen=True)
class Setting:
    """`order`: the nodes by their distance to the key, the closest first."""

    old: int
    new: int
    order: tuple[int, ...]
    holders: bool = True
    deaths: int = 0
    writes: int = 0
    cuts: int = 0
    single: bool = False
    """Whether each cut divides one node from all others. Without, any nodes from the rest: more than one of them may go on."""
    remembers: bool = True
    """Whether comparisons happen one after the other, and others' steps between them. Without, a node that catches up
    compares with all at one moment: enough where nothing is written, for then what a node has only grows."""

    @property
    def size(self) -> int:
        return self.old + self.new

    def first(self) -> State:
        old, everybody = (1 << self.old) - 1, (1 << self.size) - 1
        nobody = tuple((0,) * self.size for _ in range(self.size))
        record = int(self.holders)
        return State(
            alive=everybody,
            views=tuple(old & ~(1 << n) for n in range(self.size)),
            records=tuple(record if n < self.old else 0 for n in range(self.size)),
            caught_up=old,
            held=0,
            compared=nobody,
            acknowledged=record,
            writing=(0, 0, 0, 0, 0),
            side=0,
            deaths=self.deaths,
            writes=self.writes,
            cuts=self.cuts,
        )

    def ordered(self, nodes: int) -> list[int]:
        return [node for node in self.order if nodes >> node & 1]

    def keepers(self, state: State, node: int) -> int:
        """The replicas, as `node` sees the cluster."""
        return self.closest(state.views[node] | 1 << node)

    def closest(self, nodes: int) -> int:
        """As many of these as a key has replicas."""
        found = 0
        for each in self.ordered(nodes)[:REPLICAS]:
            found |= 1 << each
        return found

    def seats(self, state: State) -> int:
        """The closest nodes for the write under way. A node that has it and does not count has left its seat to the next."""
        _, _, known, having, counted = state.writing
        return self.closest(known & ~(having & ~counted))

    def targets(self, state: State) -> int:
        """Who is sent the write under way."""
        return self.closest(state.writing[2]) | self.seats(state)


class Rule(Protocol):
    """What the code decides."""

    def has_caught_up(self, setting: Setting, state: State, node: int) -> bool:
        """Of a replica that has not."""

    def agrees(self, setting: Setting, state: State, node: int, other: int) -> bool:
        """Whether the other one lets `node` count on it (SEES_YOU, and what it names)."""

    def holds(self, setting: Setting, state: State, node: int) -> bool:
        """Whether a node that is pushed out answers on."""

    def falls_behind(self, state: State, node: int) -> bool:
        """Whether a node has caught up on nothing any more, for it knows nobody."""

    def counts(self, setting: Setting, state: State, target: int) -> bool:
        """Whether a target's confirmation of a write counts."""

    def misses(self, setting: Setting, state: State, reader: int, below: int) -> bool:
        """Whether a read by `reader` may end with enough replicas heard and no record of `below` or more."""


def reaches(state: State, one: int, other: int) -> bool:
    return (state.side >> one & 1) == (state.side >> other & 1) or not state.side


def successors(setting: Setting, rule: Rule, state: State) -> Iterator[tuple[str, State]]:
    """What may come next, with its name."""
    for node in range(setting.size):
        if not state.alive >> node & 1:
            continue
        yield from _learns(setting, rule, state, node)
        yield from _compares(setting, rule, state, node)
        yield from _lets_go(setting, state, node)
        if state.writes and not state.writing[0] and setting.keepers(state, node) >> node & 1:
            yield f"n{node} begins a write", _begins_write(setting, state, node)
    yield from _stores(setting, rule, state)
    yield from _fails(setting, rule, state)


def broken(setting: Setting, rule: Rule, state: State) -> str:
    """Which promise a read in this state would break; empty for none."""
    if not state.acknowledged:
        return ""
    for node in range(setting.size):
        if state.alive >> node & 1 and setting.keepers(state, node) >> node & 1:
            if rule.misses(setting, state, node, 1):
                return f"n{node} may say NOT_FOUND, and take if_version=0"
            if rule.misses(setting, state, node, state.acknowledged):
                return f"n{node} may answer a quorum read with less than what was acknowledged"
    return ""


# --- Who knows whom -----------------------------------------------------------------------


def _learns(setting: Setting, rule: Rule, state: State, node: int) -> Iterator[tuple[str, State]]:
    for other in range(setting.size):
        if other == node or not reaches(state, node, other):
            continue
        is_known = state.views[node] >> other & 1
        if state.alive >> other & 1 and not is_known:
            yield (
                f"n{node} learns of n{other}",
                _sees(setting, rule, state, node, state.views[node] | 1 << other),
            )
    for other in setting.ordered(state.views[node]):
        if not (state.alive >> other & 1 and reaches(state, node, other)):
            yield (
                f"n{node} gives up n{other}",
                _sees(setting, rule, state, node, state.views[node] & ~(1 << other)),
            )


def _sees(setting: Setting, rule: Rule, state: State, node: int, view: int) -> State:
    """Another view: what a replica was pushed out of it may go on answering for."""
    state = state._replace(views=_with(state.views, node, view))
    me = 1 << node
    is_keeper = setting.keepers(state, node) & me
    memory = tuple(known if view >> other & 1 else 0 for other, known in enumerate(state.compared[node]))
    state = state._replace(compared=_with(state.compared, node, memory))
    if rule.falls_behind(state, node):
        state = state._replace(caught_up=state.caught_up & ~me, held=state.held & ~me)
    if not is_keeper and state.caught_up & me:
        state = state._replace(caught_up=state.caught_up & ~me)
        if rule.holds(setting, state, node):
            state = state._replace(held=state.held | me)
    elif is_keeper:
        state = state._replace(held=state.held & ~me)
    return _renewed(setting, rule, state)


# --- Catching up --------------------------------------------------------------------------


def _compares(setting: Setting, rule: Rule, state: State, node: int) -> Iterator[tuple[str, State]]:
    """A replica that has not caught up asks one of those that it knows; both have the newer record then."""
    if state.caught_up >> node & 1 or not setting.keepers(state, node) >> node & 1:
        return
    if not setting.remembers:
        yield from _compares_with_all(setting, rule, state, node)
        return
    for other in setting.ordered(state.views[node]):
        if not (state.alive >> other & 1 and reaches(state, node, other)):
            said = state.compared[node][other] | SILENT
            newer = state
        else:
            newest = max(state.records[node], state.records[other])
            records = _with(state.records, node, newest)
            if (setting.keepers(state, node) | setting.keepers(state, other)) >> other & 1:
                records = _with(records, other, newest)
            newer = state._replace(records=records)
            said = _said(setting, rule, state, node, other)
        if said != state.compared[node][other] or newer != state:
            memory = _with(state.compared[node], other, said)
            newer = newer._replace(compared=_with(state.compared, node, memory))
            yield f"n{node} compares with n{other}", _renewed(setting, rule, newer)


def _compares_with_all(setting: Setting, rule: Rule, state: State, node: int) -> Iterator[tuple[str, State]]:
    """The same with everybody at one moment, if it catches up by that."""
    after, known = state, state.compared
    for _ in range(setting.size):  # one step for each
        steps = list(_compares(replace(setting, remembers=True), rule, after, node))
        if not steps:
            break
        _, after = steps[0]
    if after.caught_up >> node & 1:
        yield f"n{node} catches up", after._replace(compared=known)


def _said(setting: Setting, rule: Rule, state: State, node: int, other: int) -> int:
    said = EQUAL | (state.compared[node][other] & SOUND)
    agrees = rule.agrees(setting, state, node, other)
    answers = (state.caught_up | state.held) >> other & 1
    if agrees:
        said |= AGREED
    if answers and agrees:
        said |= SOUND
    if not answers:
        said |= FRESH
    return said


def _renewed(setting: Setting, rule: Rule, state: State) -> State:
    """With all that has caught up by now."""
    for node in range(setting.size):
        me = 1 << node
        if not state.alive & me or state.caught_up & me or not setting.keepers(state, node) & me:
            continue
        if rule.has_caught_up(setting, state, node):
            state = state._replace(
                caught_up=state.caught_up | me, compared=_with(state.compared, node, (0,) * setting.size)
            )
    return state


def _lets_go(setting: Setting, state: State, node: int) -> Iterator[tuple[str, State]]:
    """Who was pushed out gives its record away once all replicas, as it sees them, have caught up and have it."""
    keepers = setting.keepers(state, node)
    if keepers >> node & 1 or not (state.held >> node & 1 or state.records[node]):
        return
    answering = all(
        state.alive >> each & 1 and reaches(state, node, each) and state.caught_up >> each & 1
        for each in setting.ordered(keepers)
    )
    if state.held >> node & 1:
        if answering:
            yield f"n{node} lets go", state._replace(held=state.held & ~(1 << node))
        return
    reached = [
        each for each in setting.ordered(keepers) if state.alive >> each & 1 and reaches(state, node, each)
    ]
    if len(reached) == keepers.bit_count():
        records = state.records
        for each in reached:
            records = _with(records, each, max(records[each], state.records[node]))
        yield f"n{node} gives its record away", state._replace(records=_with(records, node, 0))


# --- Writes -------------------------------------------------------------------------------


def _begins_write(setting: Setting, state: State, node: int) -> State:
    known = state.views[node] | 1 << node
    return state._replace(writing=(max(state.records) + 1, node, known, 0, 0), writes=state.writes - 1)


def _stores(setting: Setting, rule: Rule, state: State) -> Iterator[tuple[str, State]]:
    """A target takes it, with others a majority; or its coordinator gives up."""
    version, coordinator, known, having, counted = state.writing
    if not version:
        return
    if not state.alive >> coordinator & 1:
        yield "the write is over", state._replace(writing=(0, 0, 0, 0, 0))
        return
    for target in setting.ordered(setting.targets(state) & ~having & state.alive):
        if not reaches(state, coordinator, target):
            continue
        count = int(rule.counts(setting, state, target)) << target
        after = state._replace(
            records=_with(state.records, target, max(version, state.records[target])),
            writing=(version, coordinator, known, having | 1 << target, counted | count),
        )
        confirming = after.writing[4] & setting.seats(after)
        own = after.writing[3] >> coordinator & 1  # a coordinator waits for its own store
        if own and confirming.bit_count() >= MAJORITY and after.acknowledged < version:
            after = after._replace(acknowledged=version)
        yield f"n{target} stores version {version}", after
    yield "the write is over", state._replace(writing=(0, 0, 0, 0, 0))


# --- Faults -------------------------------------------------------------------------------


def _fails(setting: Setting, rule: Rule, state: State) -> Iterator[tuple[str, State]]:
    for node in range(setting.size) if state.deaths else ():
        if state.alive >> node & 1:
            gone = ~(1 << node)
            yield (
                f"n{node} dies",
                state._replace(
                    alive=state.alive & gone,
                    deaths=state.deaths - 1,
                    caught_up=state.caught_up & gone,
                    held=state.held & gone,
                    records=_with(state.records, node, 0),
                    views=_with(state.views, node, 0),
                    compared=_with(state.compared, node, (0,) * setting.size),
                ),
            )
    if state.side:
        yield "the network heals", state._replace(side=0)
    elif state.cuts:
        for side in range(1, 1 << (setting.size - 1)):
            if setting.single and side.bit_count() not in (1, setting.size - 1):
                continue
            yield f"the network is cut: {side:x}", state._replace(side=side, cuts=state.cuts - 1)


def _with(values: tuple, place: int, value: object) -> tuple:  # type: ignore[type-arg]
    return (*values[:place], value, *values[place + 1 :])
