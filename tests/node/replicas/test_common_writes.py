"""The common writes in Cython do what the plain Python does: the same datagrams at the same times, and the same records.

Each schedule is played twice from one seed: with loss, repetition, silence, closed ports, joiners that are behind, and
writes of several clients to few keys.
"""

import sys
from types import FrameType

import pytest
from replica_cluster import Cluster
from replica_schedule import Schedule, play_both

from kdht.datapath.memory import transport
from kdht.storage import MemoryStore
from kdht.wire import Record
from kdht.wire._shared import Op
from kdht.wire.sets import NAME_LEN, pack_announcement


@pytest.mark.parametrize("seed", range(60))
def test_a_schedule_is_the_same_with_and_without_the_common_writes(seed, monkeypatch):
    # Alarms ring at their times: not later because of another one that was cancelled meanwhile.
    monkeypatch.setattr(transport, "TICK", 1e-6)
    _, common = play_both(Schedule, seed)
    assert all(len(member.coordinator.common) == 0 for member in common.cluster.members)


SOCKET_LOOP = "/kdht/datapath/memory/"
"""What stands in for it in this cluster."""


class PythonCalls:
    """Calls of Python functions of kdht during a block, outside the store's groups and what the test itself calls."""

    def __init__(self) -> None:
        self.count = 0
        self._group: FrameType | None = None

    def __enter__(self) -> None:
        sys.setprofile(self._note)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "return" and frame is self._group:
            self._group = None
        elif event == "call" and self._group is None:
            if frame.f_code is MemoryStore.apply.__code__:
                self._group = frame
            # A named tuple's constructor is text without a file: it is its caller's.
            is_named_tuple = frame.f_code.co_filename == "<string>"
            caller = frame.f_back if is_named_tuple and frame.f_back else frame
            names = [each.f_code.co_filename for each in (caller, caller.f_back) if each is not None]
            if "/kdht/" in names[0] and SOCKET_LOOP not in names[0] and "/tests/" not in names[-1]:
                self.count += 1


def python_calls(
    together: int, *, plain: bool, version: int = 0, op: Op = Op.PUT, body: bytes = b""
) -> float:
    """Python calls for each PUT, or another `op` with a body, of so many that the owner takes at once, and for their answers."""
    cluster = Cluster(3, plain=plain)
    owner = cluster.members[0]
    names = [name for name in map(str, range(2000)) if cluster.replicas(name)[0] is owner][:together]
    calls = PythonCalls()

    def take() -> None:
        with calls:
            owner.transport.resume()

    owner.transport.pause()
    for name in names:
        cluster.send(op, name, body or Record(version=version, value=b"value").pack())
    cluster.network.run(cluster.network.now + 0.02)
    take()
    owner.transport.pause()
    cluster.network.run(cluster.network.now + 0.04)
    take()
    assert owner.coordinator.counters["writes_ok"] == together
    return calls.count / together


@pytest.mark.parametrize("versioned", [False, True])
def test_a_common_put_costs_its_coordinator_few_python_calls(versioned):
    version = int(Cluster(1).members[0].now * 1e6) if versioned else 0
    plain, common = (python_calls(32, plain=way, version=version) for way in (True, False))
    assert common <= 5, "2.1 when this was written, 110 and 114 in plain Python"
    assert common < plain / 4


class Announcing(Schedule):
    """Announcements, soft and hard, come and go among the other requests."""

    def request(self) -> None:
        if self.draw.random() < 0.4:
            super().request()
            return
        now = int(self.network.now * 1e6)
        version = self.draw.choice((0, 0, now + self.draw.randint(-5, 5), 7, 2**63))
        name, ttl = bytes([self.draw.randint(0, 2)]) * NAME_LEN, self.draw.choice((1, 30, 3600))
        if self.draw.random() < 0.2:
            self.send(Op.WITHDRAW, pack_announcement(name, ttl, version=version))
            return
        soft, renewal = self.draw.random() < 0.6, self.draw.random() < 0.2
        self.send(Op.ANNOUNCE, pack_announcement(name, ttl, b"here", version, soft=soft, renewal=renewal))


@pytest.mark.parametrize("seed", range(60))
def test_announcements_are_the_same_with_and_without_the_common_writes(seed, monkeypatch):
    monkeypatch.setattr(transport, "TICK", 1e-6)
    _, common = play_both(Announcing, seed)
    assert all(len(member.coordinator.common) == 0 for member in common.cluster.members)


@pytest.mark.parametrize("soft", [True, False])
def test_an_announcement_costs_its_coordinator_fewer_python_calls(soft):
    body = pack_announcement(bytes(NAME_LEN), 30, b"here", soft=soft)
    plain, common = (python_calls(32, plain=way, op=Op.ANNOUNCE, body=body) for way in (True, False))
    assert common < plain / 2, (plain, common)
