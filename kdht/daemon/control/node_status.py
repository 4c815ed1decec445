"""What `kdhtctl status` says of a node: whether it serves and takes writes, and what stands in the way."""

import os

from kdht import __version__
from kdht.config.settings import other_version_than
from kdht.daemon.control.state import DaemonState
from kdht.daemon.wiring import Parts
from kdht.node.twins import Pair
from kdht.program.capabilities import REASONS
from kdht.program.node_status import AccessState, GoneNode, NodeStatus, TwinPair

MOST_SHOWN = 3
"""Addresses in a sentence."""


def status_of(state: DaemonState, lost_lines: int) -> NodeStatus:
    """All but the datapaths, the faces and the discovery. `lost_lines`: log lines that were lost so far."""
    settings = state.settings
    lost = f"{lost_lines} log lines were lost: nobody reads standard error fast enough"
    status = NodeStatus(
        state=state.phase,
        moving=state.moving,
        version=__version__,
        pid=os.getpid(),
        uptime=state.uptime,
        address=str(settings.address),
        own=[str(address) for address in (*settings.own, *settings.also)],
        data_dir=str(settings.data_dir),
        config=str(settings.source or ""),
        key_epochs=[key.epoch for key in settings.keys],
        capabilities={name: REASONS.get(name, "") for name in state.capabilities},
        cookies=settings.config.node.cookies,
        access=AccessState(
            settings.access.writes,
            settings.access.reads,
            tuple(key.epoch for key in settings.access.keys),
        ),
        log_lines_lost=lost_lines,
        warnings=[*settings.warnings, *state.notes, *([lost] if lost_lines else [])],
    )
    if state.running:
        parts = state.running.parts
        status.warnings += _troubles(parts)
        _add_running(status, parts)
        if state.is_lame:
            _say_lame(status)
    return status


def _troubles(parts: Parts) -> list[str]:
    """Warnings about the node."""
    # Counted since the start, and not for a time: an operator who looks in the morning should see the
    # night's.
    failed = parts.writer.stats().failed
    troubles = [f"{failed} writes failed since the start: the log says why"] if failed else []
    if parts.store.room.why:
        troubles.append(f"no room for all writes: {parts.store.room.why}")
    # The reason why it is not writable says it already.
    if not parts.driver.yields_to_twin:
        troubles += [_about_twins(pair, parts) for pair in parts.driver.twins]
    if parts.aside.waits:
        troubles.append(
            "this node was away for longer than deletions are remembered: what it kept waits until others confirm it"
        )
    return troubles + [
        f"{count} records that no other node has are set aside in {path}: move the file away, or put them back with "
        "kdhtctl storage import while the node is stopped"
        for path, count in parts.aside.files()
    ]


def _not_writable(parts: Parts) -> str:
    """Why no write can be confirmed here; empty if one can, as far as this node knows."""
    coordinator = parts.coordinator
    # The causes that an operator can mend here come before those of the cluster.
    if parts.store.failed:
        return "a write to the disk failed, so no more are accepted for now: free space on its disk, and it takes writes again"
    if parts.store.room.pressure:
        return f"there is no room for clients' values ({parts.store.room.why}): delete records, or give it a greater disk or quota"
    if parts.driver.yields_to_twin:
        return _why_yielding(parts)
    if coordinator.cluster.barred:
        return _why_unreachable(parts)
    if not coordinator.cluster.joined:
        return "the node has not joined its cluster: kdhtctl join HOST, and correct node.bootstrap"
    if lacks := coordinator.lacks(coordinator.need):
        return (
            f"{coordinator.need} nodes must confirm a write, and {coordinator.need - lacks} lives: start the others, "
            "or kdhtctl forget those that are gone for good"
        )
    return ""


def _why_yielding(parts: Parts) -> str:
    """The older node, and what to do."""
    pairs = [pair for pair in parts.driver.twins if pair.id == parts.contact.id]
    at = ", ".join(str(pair.addresses[1]) for pair in pairs)
    return (
        f"an older node at {at} has this node's ID: stop this one, move its data directory away, and start it again, "
        "then it has an ID of its own"
    )


def _about_twins(pair: Pair, parts: Parts) -> str:
    if pair.id == parts.contact.id:
        return (
            f"a younger node at {pair.addresses[1]} has this node's ID and serves nothing: stop that one, move its data "
            "directory away, and start it again"
        )
    return (
        f"the nodes at {pair.addresses[0]} and {pair.addresses[1]} have one ID: one of them was copied. Stop the copy, "
        "move its data directory away, and start it again"
    )


def _why_unreachable(parts: Parts) -> str:
    """Names of the members out of this node's reach."""
    unreachable = parts.driver.out_of_reach
    if not unreachable:
        return ""
    lacks = other_version_than(parts.contact.address)
    shown = [str(contact.address) for contact in unreachable[:MOST_SHOWN]]
    rest = f" and {len(unreachable) - MOST_SHOWN} more" if len(unreachable) > MOST_SHOWN else ""
    return (
        f"members at {', '.join(shown)}{rest} speak {lacks} only, and this node has no {lacks} address: give it one in "
        f"node.listen, or them one of its version"
    )


def _add_running(status: NodeStatus, parts: Parts) -> None:
    """The counters of a running node, without its datapaths."""
    node = parts.driver.status()
    status.node_id = node["id"]
    status.contacts = len(parts.driver.contacts())
    status.joined = parts.driver.joined
    status.ready = parts.driver.readiness.ready
    status.waiting_for = parts.driver.readiness.missing
    status.not_writable = _not_writable(parts)
    status.writable = not status.not_writable
    status.gone = [
        GoneNode(contact.id.hex(), str(contact.address), seconds)
        for contact, seconds in parts.driver.silent_for
    ]
    status.asked = [str(address) for address in parts.driver.asked]
    status.unreachable = [str(contact.address) for contact in parts.driver.out_of_reach]
    status.why_unreachable = _why_unreachable(parts)
    status.yields_to_twin = parts.driver.yields_to_twin
    status.twins = [
        TwinPair(pair.id.hex(), (str(pair.addresses[0]), str(pair.addresses[1])))
        for pair in parts.driver.twins
    ]
    status.repair = {name: value for name, value in node["repair"].items() if name != "counters"}
    status.records = parts.store.stats().records
    status.set_aside = sum(count for _, count in parts.aside.files())


def _say_lame(status: NodeStatus) -> None:
    status.ready = status.writable = False
    status.waiting_for = [*status.waiting_for, "its stop"]
    status.not_writable = "the node is about to stop"
