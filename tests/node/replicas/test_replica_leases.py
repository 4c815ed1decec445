"""Watches at the coordinator: who is notified, and for how long."""

import struct

from replica_cluster import Cluster
from replica_steps import taken

from kdht.wire import Record
from kdht.wire._shared import Op, Status


def test_watchers_are_notified_until_the_lease_ends():
    cluster = Cluster(8)
    cluster.put("a", b"one")
    asked = cluster.ask(Op.WATCH, "a", struct.pack(">I", 30))
    assert asked is not None
    assert Record.parse(asked.body).value == b"one"
    cluster.send(Op.PUT, "a", Record(value=b"two").pack())
    cluster.send(Op.DELETE, "b")
    cluster.network.run(cluster.network.now + 1)
    told = [m for m in taken(cluster) if m.op is Op.WATCH]
    assert [Record.parse(m.body).value for m in told] == [b"two"]
    assert {m.request_id for m in told} == {asked.request_id}
    cluster.send(Op.DELETE, "a")
    cluster.network.run(cluster.network.now + 1)
    assert [m.status for m in taken(cluster) if m.op is Op.WATCH] == [Status.NOT_FOUND]
    cluster.network.run(cluster.network.now + 40)
    cluster.put("a", b"three")
    cluster.network.run(cluster.network.now + 1)
    assert not [m for m in taken(cluster) if m.op is Op.WATCH]


def test_a_lease_of_zero_seconds_ends_a_watch():
    cluster = Cluster(8)
    request_id = cluster.send(Op.WATCH, "a", struct.pack(">I", 30))
    cluster.network.run(cluster.network.now + 1)
    cluster.send(Op.WATCH, "a", struct.pack(">I", 0), request_id=request_id)
    cluster.network.run(cluster.network.now + 1)
    cluster.client.take()
    cluster.put("a", b"one")
    cluster.network.run(cluster.network.now + 1)
    assert not [m for m in taken(cluster) if m.op is Op.WATCH]
