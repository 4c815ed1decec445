"""The typed surface of _direct_reads.pyx."""

from collections.abc import Callable

from kdht.datapath.base import Outgoing
from kdht.datapath.socket._direct import Direct
from kdht.faults import Faults
from kdht.node.replicas._common_reads import CommonReads, ReadAnswers
from kdht.node.replicas._fetch_requests import FetchRequests
from kdht.node.replicas._turns import Turns
from kdht.times import UnixTime

class DirectReads(Direct):
    def __init__(
        self,
        writes: Direct,
        fetches: FetchRequests,
        common: CommonReads,
        answers: ReadAnswers,
        turns: Turns,
        send: Callable[[list[Outgoing]], object],
        open_to_all: Callable[[], bool],
        clock: Callable[[], UnixTime],
        faults: Faults,
    ) -> None: ...
