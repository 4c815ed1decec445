"""Virtual clusters that have come to rest: the beginning of every simulation of the full protocol."""

import resource
from collections.abc import Callable, Sequence
from random import Random

from kdht.lab.virtual import VirtualCluster
from kdht.lab.virtual.member import OnPublish
from kdht.node.replicas import Policy
from kdht.wire import Contact

JOIN_PAUSE = 0.1
FILES_PER_NODE = 1
"""A core is a memfd."""


def grown(
    nodes: int,
    seed: int,
    rest: float,
    *,
    loss: float = 0.0,
    policy: Policy | None = None,
    on_publish: OnPublish | None = None,
    progress: Callable[[int], None] = lambda joined: None,
) -> VirtualCluster:
    """`nodes` that joined one after the other, each through a random one, and `rest` seconds after."""
    _allow_files(nodes * FILES_PER_NODE + 256)
    cluster = VirtualCluster(seed, loss=loss, policy=policy, on_publish=on_publish)
    join(cluster, nodes, (), progress)
    cluster.run(rest)
    return cluster


def join(
    cluster: VirtualCluster, nodes: int, others: Sequence[Contact], progress: Callable[[int], None]
) -> None:
    """`nodes` new members, one after the other, each through a random one or one of `others`."""
    rng = Random(f"bootstrap {cluster.seed}")
    for number in range(1, nodes + 1):
        known = [*others, *cluster.contacts()]
        cluster.add(number, [rng.choice(known)] if known else [])
        cluster.run(JOIN_PAUSE)
        progress(1)


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
