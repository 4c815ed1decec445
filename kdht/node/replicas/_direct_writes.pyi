"""The typed surface of _direct_writes.pyx."""

from collections.abc import Callable

from kdht.datapath.socket._direct import Direct
from kdht.faults import Faults
from kdht.node.cluster import ClusterState
from kdht.node.replicas._common_writes import CommonWrites, PutAnswers
from kdht.node.replicas._store_requests import StoreRequests
from kdht.node.replicas._turns import Turns
from kdht.times import UnixTime

class DirectWrites(Direct):
    def __init__(
        self,
        stores: StoreRequests,
        common: CommonWrites,
        answers: PutAnswers,
        turns: Turns,
        cluster: ClusterState,
        open_to_all: Callable[[], bool],
        clock: Callable[[], UnixTime],
        faults: Faults,
    ) -> None: ...
