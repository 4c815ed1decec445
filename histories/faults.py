"""The faults of a plan, done to a stage: each is a block, and what it did is undone at the block's end."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from histories.network import UNTOUCHED, Treatment
from histories.plan import Act
from histories.stage import Stage, wipe
from kdht.errors import KdhtError, NoDaemon
from kdht.lab.cluster import LabNode
from kdht.lab.wait import wait_until

LEFT = 20.0
"""Seconds that a node may take to hand over what it has; then it leaves without."""

Wait = Callable[[float], None]
"""Waits so many seconds, or less when the history is to end."""


def play(stage: Stage, act: Act, wait: Wait) -> None:
    """One act from beginning to end. Raises LabError for a node that does not end."""
    wait(act.rest)
    with ExitStack() as stack:
        if act.beneath is not None:
            stack.enter_context(_FAULTS[act.beneath.kind](stage, act.beneath))
        stack.enter_context(_FAULTS[act.kind](stage, act))
        wait(act.lasts)


@contextmanager
def _calm(stage: Stage, act: Act) -> Iterator[None]:
    yield


@contextmanager
def _treated(stage: Stage, act: Act) -> Iterator[None]:
    network = stage.network
    assert network is not None, "the plan keeps to what loopback can"
    names = act.nodes or network.names
    treatment = {
        "loss": Treatment(loss_permille=round(act.amount)),
        "delay": Treatment(delay_ms=act.amount, jitter_ms=act.more),
        "duplicate": Treatment(duplicate_permille=round(act.amount), late_ms=act.more),
    }[act.kind]
    if act.kind != "loss":
        names = (*names, "client")
    network.treat(names, treatment)
    try:
        yield
    finally:
        network.treat(names, UNTOUCHED)


@contextmanager
def _divided(stage: Stage, act: Act) -> Iterator[None]:
    """Nodes among themselves; the clients reach all of them."""
    network = stage.network
    assert network is not None, "the plan keeps to what loopback can"
    others = [node.name for node in stage.cluster.nodes if node.name not in act.nodes]
    network.cut(act.nodes, others)
    if act.kind != "one-way":
        network.cut(others, act.nodes)
    try:
        yield
    finally:
        network.join()


@contextmanager
def _paused(stage: Stage, act: Act) -> Iterator[None]:
    for name in act.nodes:
        node = stage.node(name)
        if node.alive():
            stage.pause(node.pid)
    try:
        yield
    finally:
        stage.resume()


@contextmanager
def _clients_paused(stage: Stage, act: Act) -> Iterator[None]:
    """One process of clients."""
    if stage.workers:
        stage.pause(stage.workers[int(act.amount * len(stage.workers))].pid)
    try:
        yield
    finally:
        stage.resume()


@contextmanager
def _killed(stage: Stage, act: Act) -> Iterator[None]:
    nodes = [stage.node(name) for name in act.nodes] if act.nodes else stage.living
    for node in nodes:
        if node.alive():
            node.kill()
    yield
    for node in nodes:
        stage.start(node)


@contextmanager
def _skewed(stage: Stage, act: Act) -> Iterator[None]:
    clocks = [stage.clocks[name] for name in act.nodes]
    before = [clock.offset for clock in clocks]
    for clock in clocks:
        clock.set(clock.offset + act.amount)
    try:
        yield
    finally:
        for clock, offset in zip(clocks, before, strict=True):
            clock.set(offset)


@contextmanager
def _drained(stage: Stage, act: Act) -> Iterator[None]:
    """Handed over and stopped as `kdhtctl drain` does; started again with what it has."""
    node = stage.node(act.nodes[0])
    _leave(node)
    yield
    stage.start(node)


@contextmanager
def _joined(stage: Stage, act: Act) -> Iterator[None]:
    """The spare node comes with an empty disk, and leaves in order the next time."""
    if not stage.spare.alive():
        stage.start(stage.spare)
    elif _leave(stage.spare):
        wipe(stage.spare)
    yield


def _leave(node: LabNode) -> bool:
    """Drain and end it; whether it could hand over all that it has."""
    try:
        wait_until(lambda: node.call("drain")["drained"], f"{node.name} to drain", LEFT)
        return True
    except (KdhtError, NoDaemon):  # not in time, or not in this state: it leaves as it is
        return False
    finally:
        node.stop()


_FAULTS: dict[str, Callable[[Stage, Act], AbstractContextManager[None]]] = {
    "calm": _calm,
    "loss": _treated,
    "delay": _treated,
    "duplicate": _treated,
    "pause": _paused,
    "pause-clients": _clients_paused,
    "kill": _killed,
    "kill-two": _killed,
    "restart-all": _killed,
    "cut-off": _divided,
    "one-way": _divided,
    "halves": _divided,
    "skew": _skewed,
    "drain": _drained,
    "join": _joined,
}
