"""Answers of a daemon that is well, as a test wants them changed."""

from typing import Any

from kdht.program.answers import BucketState, ContactState, NodeStats, RoutingTable, StorageCounters
from kdht.program.node_status import NodeStatus, RepairState

NODE_ID = "11" * 20


def node_status(**changes: Any) -> NodeStatus:
    """Of a running node with three contacts."""
    well: dict[str, Any] = {
        "state": "running", "moving": False, "version": "1", "pid": 1, "uptime": 1.0, "address": "127.0.0.1:5348",
        "own": ["127.0.0.1:5348"], "data_dir": "/nowhere", "key_epochs": [0], "capabilities": {}, "cookies": True,
        "log_lines_lost": 0, "warnings": [], "node_id": NODE_ID, "contacts": 3, "joined": True, "ready": True, "writable": True,
        "not_writable": "", "datapaths": [{"name": "socket", "state": "up"}],
    }  # fmt: skip
    return NodeStatus(**{**well, **changes})


def contact(**changes: Any) -> ContactState:
    well: dict[str, Any] = {
        "id": "00" * 20, "address": "10.0.0.2:5348", "age": 1.0, "seen": 1.0, "rtt_ms": 1.0, "clock": 0.0,
        "failures": 0, "demoted": False,
    }  # fmt: skip
    return ContactState(**{**well, **changes})


def routing_table(*contacts: ContactState) -> RoutingTable:
    """All in one bucket."""
    return RoutingTable(NODE_ID, [BucketState(0, list(contacts), 0)])


def node_stats(**changes: Any) -> NodeStats:
    """Nothing has happened yet, but for what is given."""
    none: dict[str, Any] = {
        "packets": {"all": {}}, "requests": {}, "denied": {}, "would_deny": {}, "replication": {}, "storage": StorageCounters(*[0] * 9),
        "repair": {}, "node": {}, "datapaths": {},
    }  # fmt: skip
    return NodeStats(**{**none, **changes})


def repair_state(**changes: Any) -> RepairState:
    """All in step with two neighbours."""
    well: dict[str, Any] = {
        "caught_up": True, "ranges": 4, "behind": 0, "replicas": 3, "others_replicas": [], "waits_for": {}, "held": 0,
        "missing": 0, "seconds_left": 0.0, "neighbours": 2, "draining": False, "drained": False, "pushing": 0,
        "running": 0, "planned": 0,
    }  # fmt: skip
    return RepairState(**{**well, **changes})
