"""The virtual cluster as the node's tests use it."""

from kdht.lab.virtual import KEY, Member, address_of, contact_of, id_of
from kdht.lab.virtual import VirtualCluster as Cluster

__all__ = ["KEY", "SOON", "Cluster", "Member", "address_of", "contact_of", "id_of"]

SOON = 60.0
"""Virtual seconds in which a cluster of this size comes to rest."""
