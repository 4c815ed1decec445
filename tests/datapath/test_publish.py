"""One writer: the core has the change before a sink hears of it, and a sink hears of nothing twice."""

import random
import threading

import pytest
from builders import id_sharing, packed, random_contact

from kdht._routing import Core
from kdht.datapath.publish import Publisher
from kdht.wire import _shared as shared

SELF = bytes(shared.ID_LEN)


class Copy:
    """A sink that writes down what it was told, and what the core said then."""

    def __init__(self, core: Core) -> None:
        self.heard: list[tuple[str, object]] = []
        self._core = core

    def config_changed(self) -> None:
        self.heard.append(("config", self._core.occupancy()))

    def bucket_changed(self, index: int) -> None:
        self.heard.append((f"bucket {index}", len(self._core.bucket(index))))


@pytest.fixture
def publisher() -> Publisher:
    publisher = Publisher(Core())
    configure(publisher)
    return publisher


def configure(publisher: Publisher) -> None:
    publisher.configure(
        self_id=SELF,
        port=shared.PORT,
        own=[packed("10.0.0.1")],
        source4=packed("10.0.0.1"),
        source6=None,
        keys=[(1, bytes(shared.TAG_KEY_LEN))],
        cookie_key=bytes(16),
    )


def contacts(rng, index: int, count: int) -> list:
    return [random_contact(rng, id_sharing(rng, SELF, index)) for _ in range(count)]


@pytest.fixture
def rng():

    return random.Random(1)


def test_the_configuration_is_published_only_when_occupied_buckets_change(publisher, rng) -> None:
    copy = Copy(publisher.core)
    publisher.connect(copy)
    top = 1 << (shared.ID_BITS - 1)
    for count, heard in (
        (1, [("bucket 0", 1), ("config", top)]),
        (2, [("bucket 0", 2)]),
        (0, [("bucket 0", 0), ("config", 0)]),
    ):
        copy.heard.clear()
        publisher.set_bucket(0, contacts(rng, 0, count))
        assert copy.heard == heard


def test_a_configuration_is_told_to_all(publisher) -> None:
    copies = [Copy(publisher.core) for _ in range(2)]
    for copy in copies:
        publisher.connect(copy)
    configure(publisher)
    assert [copy.heard for copy in copies] == [[("config", 0)]] * 2


def test_a_disconnected_sink_gets_no_updates(publisher, rng) -> None:
    copy = Copy(publisher.core)
    publisher.connect(copy)
    publisher.disconnect(copy)
    publisher.disconnect(copy)
    publisher.set_bucket(3, contacts(rng, 3, 1))
    assert copy.heard == []
    assert len(publisher.core.bucket(3)) == 1


def test_a_copy_of_all_buckets_is_not_older_than_what_was_told(publisher, rng) -> None:
    """Another thread's change waits until the copy is made, and is told after it."""
    told = threading.Event()

    class Sink(Copy):
        def bucket_changed(self, index: int) -> None:
            told.set()

    publisher.connect(Sink(publisher.core))
    writer = threading.Thread(target=publisher.set_bucket, args=(0, contacts(rng, 0, 1)))
    with publisher.still():
        writer.start()
        assert not told.wait(0.05)
        assert publisher.core.bucket(0) == []
    writer.join()
    assert told.is_set()
