"""The coordinator: a write to all replicas of its key, a read from several of them, watches.

Contract: no I/O but the store's, no clock. It runs on whatever thread brings it something, one
turn at a time (`turns`). What one node owes another, STORE and FETCH, stands in `calls`;
writes in `writes`, reads from more than the own store in `quorum_reads`, leases in `leases`.
"""

from kdht.node.cluster import ClusterState, Policy
from kdht.node.replicas.coordinator import Coordinator

__all__ = ["ClusterState", "Coordinator", "Policy"]
