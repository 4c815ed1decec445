"""A cluster in one process under a virtual clock: the node's own code on a network in memory.

Cores, transports, control planes, stores and coordinators are the daemon's; only the clock, the
network and the threads are not. For tests and simulations. The same seed gives the same run.
"""

from kdht.lab.virtual.cluster import VirtualCluster, address_of, contact_of, id_of
from kdht.lab.virtual.member import KEY, Member

__all__ = ["KEY", "Member", "VirtualCluster", "address_of", "contact_of", "id_of"]
