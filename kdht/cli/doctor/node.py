"""Findings from the configuration and the running node."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from kdht.cli.doctor.findings import Check, Finding, State, Subject
from kdht.config import dev
from kdht.program.answers import NodeStats
from kdht.program.node_status import MOST_NAMED
from kdht.wire._shared import REPLAY_WINDOW

CLOCK_WARNING = 5.0
"""Seconds that most neighbours' clocks may be off: a message's time has whole seconds only."""
# LevelDB needs room for a compaction beside the data that it replaces.
LEAST_FREE = 256 << 20
SUSPECT_REASONS = {
    "BAD_TAG": "not tagged under this cluster's key: another cluster, or a node with another secret",
    "BAD_EPOCH": "tagged under a key that this node does not have: is a key rotation half done?",
    "STALE": "from a clock that is too far off, or replayed",
}


def configuration(subject: Subject) -> Iterator[Finding]:
    """The file, and its oddities."""
    if subject.settings is None:
        if subject.is_dev and not subject.config_path.exists():
            yield Finding("configuration", "ok", "none: the node that runs here is a --dev node")
        else:
            yield Finding("configuration", "failure", subject.config_error,
                          "correct it (kdhtd --example explains every field), or name it with --config")  # fmt: skip
        return
    yield Finding("configuration", "ok", f"{subject.config_path} is valid")
    for warning in subject.settings.warnings:
        what, _, mend = warning.rpartition(": ")
        yield Finding("configuration", "warning", what or warning, mend)


def daemon(subject: Subject) -> Iterator[Finding]:
    """Whether it runs, and whether it has found its cluster."""
    status = subject.status
    if status is None:
        yield from (
            _denied(subject)
            if subject.is_denied
            else [Finding("daemon", "failure", subject.daemon_error, "kdhtd")]
        )
        return
    state: State = "ok" if status.state == "running" else "failure"
    yield Finding("daemon", state, f"{status.state}, kdht {status.version}, process {status.pid}",
                  "" if state == "ok" else "its log says why")  # fmt: skip
    # Those of the file are said already, with what mends them.
    said = {dev.WARNING, *(subject.settings.warnings if subject.settings else ())}
    for warning in status.warnings:
        if warning not in said:
            yield Finding("daemon", "warning", warning, "its log says more")
    if status.yields_to_twin:
        why, _, mend = status.not_writable.partition(": ")
        yield Finding("cluster", "failure", why, mend)
    elif status.gone and not status.contacts:
        lost = ", ".join(f"{node.address} ({node.silent:.0f} s)" for node in status.gone[:MOST_NAMED])
        yield Finding("cluster", "failure", f"no other node lives; silent: {lost}",
                      f"start them, or kdhtctl forget {status.gone[0].id} if it is gone for good")  # fmt: skip
    elif not status.joined:
        silent = f": no answer from {', '.join(status.asked[:MOST_NAMED])}" if status.asked else ""
        yield Finding("cluster", "failure", f"the node has not found its cluster{silent}",
                      "another secret, a firewall? Compare the secrets' files and the UDP port there; or correct node.bootstrap")  # fmt: skip
    elif not status.contacts:
        yield Finding("cluster", "warning", "the node knows no other: it is a cluster of one",
                      "kdhtctl join HOST, unless it is the first")  # fmt: skip
    else:
        yield Finding("cluster", "ok", f"joined, {status.contacts} contacts")
    if status.why_unreachable:
        why, _, mend = status.why_unreachable.rpartition(": ")
        yield Finding("cluster", "failure", why, mend)
    elif status.not_writable and not status.yields_to_twin:
        why, _, mend = status.not_writable.partition(": ")
        yield Finding("writes", "failure", why, mend)
    if status.joined and not status.ready:
        yield Finding("cluster", "warning", f"not ready: waits for {', '.join(status.waiting_for)}",
                      "wait, and ask again: kdhtctl status")  # fmt: skip


def _denied(subject: Subject) -> Iterator[Finding]:
    """What a client sees, where the control socket is not for this user."""
    mend = "ask as root, or join the socket's group"
    if subject.heard:
        at = ", ".join(map(str, subject.heard))
        yield Finding("daemon", "warning", f"{subject.daemon_error}. A node answers at {at}", mend)
    if subject.silent or not subject.heard:
        at = ", ".join(map(str, subject.silent)) or "port 5348 of this host"
        yield Finding("daemon", "failure", f"{subject.daemon_error}. No node answers at {at}", mend)


def datapaths(subject: Subject) -> Iterator[Finding]:
    """The running datapath, and whether it is the configured one."""
    if subject.status is None:
        return
    for path in subject.status.datapaths:
        why = str(path.get("why") or "")
        if path["state"] == "up":
            yield Finding("datapath", "ok", f"{path['name']} is up")
        else:
            bad: State = "warning" if path["state"] == "degraded" else "failure"
            yield Finding("datapath", bad, f"{path['name']} is {path['state']}: {why}",
                          "mend what the line names: it is used again by itself; its log says more")  # fmt: skip
    wanted, runs = subject.kind, subject.running_kind
    if wanted == "auto" and runs == "socket" and subject.interfaces:
        yield Finding("datapath", "warning", "nfqueue was to be used where it works, and does not work here",
                      "see the lines on nft and NFQUEUE; the daemon's log has the error")  # fmt: skip
    elif wanted not in ("auto", runs):
        yield Finding("datapath", "warning", f"{runs} runs, the configuration says {wanted}",
                      f"kdhtctl datapath {wanted}")  # fmt: skip


def faces(subject: Subject) -> Iterator[Finding]:
    """Servers of other protocols."""
    for face in subject.status.faces if subject.status else []:
        if face.up:
            yield Finding("face", "ok", f"{face.name} serves at {', '.join(face.listen)}")
        else:
            what, _, mend = face.why.rpartition(": ")
            yield Finding("face", "failure", f"{face.name} does not serve: {what or face.why}", mend)


def queues(subject: Subject) -> Iterator[Finding]:
    """Packets that met a full queue in the kernel. They took the slow path."""
    nfqueue = subject.stats.datapaths.get("nfqueue", {}) if subject.stats else {}
    for queue in nfqueue.get("queues", []):
        lost = queue.get("full", 0) + queue.get("failed", 0)
        if lost:
            yield Finding("queue", "warning", f"queue {queue['number']} was full for {lost:,} packets",
                          "raise datapath.queue_length, or datapath.queues up to the number of cores")  # fmt: skip
        else:
            yield Finding("queue", "ok", f"queue {queue['number']}: nothing was lost")


def dropped(subject: Subject) -> Iterator[Finding]:
    """Drop reasons that mean a mistake in the cluster."""
    if subject.stats is None:
        return
    counts = subject.stats.packets["all"]
    seen = {reason: counts[reason] for reason in SUSPECT_REASONS if counts.get(reason)}
    for reason, count in seen.items():
        senders = _strangers(subject.stats) if reason == "BAD_TAG" else ""
        yield Finding("dropped", "warning", f"{count:,} packets {reason}{senders}: {SUSPECT_REASONS[reason]}",
                      "kdhtctl status shows the key epochs: compare them, and the secrets' files, on all nodes"
                      if reason != "STALE" else "timedatectl set-ntp true, on all nodes")  # fmt: skip
    if not seen:
        yield Finding("dropped", "ok", "no packet had a wrong tag, epoch or time")


def _strangers(stats: NodeStats) -> str:
    """The last senders, for whoever looks for the node with the other secret."""
    shown = [f"{address} ({ago:.0f} s ago)" for address, ago in list(stats.strangers.items())[:MOST_NAMED]]
    last = f", the last from {', '.join(shown)}" if shown else ""
    # tcpdump does not see them either: it gets packets behind the program.
    in_xdp = stats.packets.get("ebpf", {}).get("BAD_TAG", 0)
    unseen = f" ({in_xdp:,} of them in XDP, which counts only: `kdhtctl datapath socket` for a minute shows senders)"
    return last + (unseen if in_xdp else "")


def clock(subject: Subject) -> Iterator[Finding]:
    """This clock against the neighbours'. If half of them are off, this one is."""
    contacts = subject.table.contacts if subject.table else []
    clocks = [each.clock for each in contacts if each.clock is not None]
    if not clocks:
        return
    off = median(clocks)
    window = subject.settings.config.node.replay_window if subject.settings else REPLAY_WINDOW
    what = f"the clocks of {len(clocks)} contacts are {off:+.0f} s from ours, in the middle"
    if abs(off) <= CLOCK_WARNING:
        yield Finding("clock", "ok", what)
    else:
        bad: State = "failure" if abs(off) > window / 2 else "warning"
        yield Finding(
            "clock", bad, f"{what}; messages older than {window} s are dropped", "timedatectl set-ntp true"
        )
    far = [each for each in clocks if abs(each - off) > CLOCK_WARNING]
    if far:
        yield Finding("clock", "warning", f"{len(far)} contacts disagree with the others by up to {max(map(abs, far)):.0f} s",
                      "kdhtctl cluster shows which; timedatectl set-ntp true, there")  # fmt: skip


def data_directory(subject: Subject) -> Iterator[Finding]:
    """Room on the disk, and failed writes."""
    path = _data_dir(subject)
    if path is None:
        return
    at = next((each for each in (path, *path.parents) if each.exists()), path)
    try:
        free = shutil.disk_usage(at).free
    except OSError as error:
        yield Finding("storage", "warning", f"{at}: {error.strerror}", "ask as root")
        return
    room = f"{free / (1 << 20):,.0f} MiB free for {path}"
    if free < LEAST_FREE:
        yield Finding("storage", "warning", room, "make room: without it, writes are refused")
    else:
        yield Finding("storage", "ok", room)
    failed = subject.stats.storage.failed if subject.stats else 0
    if failed:
        broken = subject.stats is not None and subject.stats.storage.disk_failed
        yield Finding("storage", "failure" if broken else "warning", f"{failed:,} writes failed since the start",
                      "make room: the node takes writes again by itself; its log says why")  # fmt: skip


def _data_dir(subject: Subject) -> Path | None:
    if subject.status is not None:
        return Path(subject.status.data_dir)
    return subject.settings.data_dir if subject.settings else None


CHECKS: tuple[Check, ...] = (configuration, daemon, datapaths, faces, queues, dropped, clock, data_directory)
