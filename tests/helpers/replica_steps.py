"""Steps of the tests of writes, on the record of "a" in a Cluster of replica_cluster."""

from replica_cluster import Cluster, Member, key_of

from kdht.storage import StoredRecord, Write
from kdht.storage.room import Pressure
from kdht.wire import Message, parse


def plant(member: Member, version: int, value: bytes = b"value", flags: int = 0) -> None:
    """Put a record into one member's store."""
    (result,) = member.store.apply([Write(key_of("a"), StoredRecord(version, 0, flags, value))], member.now)
    assert result.accepted


def fill(*members: Member, pressure: Pressure = Pressure.MEMBERS) -> None:
    """Give them no room, or as much as `pressure` says."""
    for member in members:
        member.store.room.measure = lambda *_: None
        member.store.room.look = lambda *_: None
        member.store.room.pressure = pressure


def far(cluster: Cluster) -> Member:
    """An entry node from which attempt n ends at replica n."""
    key = int.from_bytes(key_of("a"), "big")
    return max(cluster.members, key=lambda member: int.from_bytes(member.contact.id, "big") ^ key)


def seq_of(cluster: Cluster, seconds: float = 0.0) -> int:
    """A version as a client's clock gives it, so many seconds from now."""
    return int((cluster.network.now + seconds) * 1_000_000)


def cut(cluster: Cluster, one: Member, other: Member, loss: float = 1.0) -> None:
    """Lose that share of what goes between two members, both ways."""
    cluster.network.set_loss(one.contact.address, other.contact.address, loss)
    cluster.network.set_loss(other.contact.address, one.contact.address, loss)


def taken(cluster: Cluster) -> list[Message]:
    """All that the client has received since the last look."""
    return [parse(received.data) for received in cluster.client.take()]
