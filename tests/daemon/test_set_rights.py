"""Who may be a member of a set: a token changes the members of its own holder, and nothing else."""

from collections.abc import Iterator

import pytest
import tokens

from kdht.client import Client
from kdht.errors import Denied
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.wire._shared import Right
from kdht.wire.rights import Token


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = tokens.settings(reads="token")
    directory = tmp_path_factory.mktemp("rights")
    with Cluster(places_on_loopback(3), directory, datapath="socket", settings=settings) as cluster:
        yield cluster


def client(cluster: Cluster, made: Token | None) -> Client:
    return Client([str(node.address) for node in cluster.nodes], token=made.text if made else "")


def shown(cluster: Cluster, name: str) -> list[bytes]:
    with client(cluster, tokens.token(rights=Right.READ)) as reader:
        return sorted(member.payload for member in reader.members(name, quorum=True))


def test_announce_alone_adds_and_removes_its_own_members_only(cluster):
    announcer, other = (
        tokens.token(rights=Right.ANNOUNCE, holder="one"),
        tokens.token(rights=Right.ANNOUNCE, holder="two"),
    )
    with client(cluster, announcer) as mine, client(cluster, other) as theirs:
        mine.announce_once("web", b"mine", member="web-1")
        theirs.announce_once("web", b"theirs", member="web-1")
        assert shown(cluster, "web") == [b"mine", b"theirs"]
        mine.announce_once("web", b"moved", member="web-1")
        assert shown(cluster, "web") == [b"moved", b"theirs"]
        assert mine.withdraw("web", member="web-1")
        assert not mine.withdraw("web", member="web-1")
        assert shown(cluster, "web") == [b"theirs"]


def test_announce_alone_writes_and_reads_nothing_else(cluster):
    with client(cluster, tokens.token(rights=Right.ANNOUNCE)) as announcer:
        for attempt in (
            lambda: announcer.put("web", b"value"),
            lambda: announcer.delete("web"),
            lambda: announcer.members("web"),
            lambda: next(announcer.watch_members("web")),
        ):
            with pytest.raises(Denied):
                attempt()


@pytest.mark.parametrize("made", [None, tokens.token(rights=Right.WRITE | Right.DELETE | Right.READ)])
def test_without_the_right_nobody_is_announced(cluster, made):
    with client(cluster, made) as stranger:
        with pytest.raises(Denied):
            stranger.announce_once("closed", b"me")
        with pytest.raises(Denied):
            stranger.withdraw("closed", b"me")
    assert shown(cluster, "closed") == []


def test_a_watch_of_a_set_needs_the_right_to_watch(cluster):
    with client(cluster, tokens.token(rights=Right.WATCH | Right.READ)) as watching:
        assert next(watching.watch_members("quiet")) == []
