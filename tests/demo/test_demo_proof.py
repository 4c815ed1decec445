"""The demonstration's checks can fail: each one, for the fact that it is about."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from demo.proof import Check, NodeFacts, checks
from demo.stage import Stage
from demo.traffic import Pass
from kdht.client import Hop
from kdht.wire._shared import Reason

NOBODY = dict.fromkeys((reason.name for reason in Reason), 0)
UP = {"socket": "up", "nfqueue": "up", "ebpf": "up"}
ASKED = 20
"""Datagrams of the clients: half of them go on and come back, the others are for the entry node."""


def node(name: str, **changes: Any) -> NodeFacts:
    busy = {**NOBODY, "ENTERED": 5, "RELAYED": 5, "OWNER": 5}
    nft = {"clients": ASKED // 2, "members": 10, "forwarded": 10}
    facts = NodeFacts(name, "10.0.0.1:5348", "00", 6, UP, socket=NOBODY, queue=busy, program=busy, nft=nft)
    return replace(facts, **changes)


def good() -> dict[str, Any]:
    """What `checks` is given after a run in which all went well."""
    return {
        "entries": 6,
        "kept": 12,
        "passes": {"put": Pass(6, done=6)},
        "ways": {"key": [Hop(None, 0.001, False), Hop(None, 0.001, True)]},
        "facts": [node("n1"), node("n2")],
    }


def failing(datapath: str, answered: int = ASKED, **changes: Any) -> list[str]:
    client = SimpleNamespace(counters=lambda: {"asked": ASKED, "answered": answered})
    stage = Stage(datapath, SimpleNamespace(nodes=[]), client)  # type: ignore[arg-type]
    found: list[Check] = list(checks(stage, **{**good(), **changes}))
    return [check.claim for check in found if not check.holds]


@pytest.mark.parametrize("datapath", ["socket", "nfqueue", "ebpf"])
def test_all_hold_when_all_went_well(datapath: str) -> None:
    assert failing(datapath) == []


def with_first(**changes: Any) -> dict[str, Any]:
    return {"facts": [node("n1", **changes), node("n2")]}


EVERYWHERE: list[tuple[str, dict[str, Any]]] = [
    ("put: all right", {"passes": {"put": Pass(6, done=6, failures=["key: lost"])}}),
    ("put: all right", {"passes": {"put": Pass(6, done=5)}}),
    ("every value has all its replicas", with_first(records=2)),
    ("some keys are owned elsewhere", {"ways": {"key": [Hop(None, 0.001, True)]}}),
]
BUSY_SOCKET = {**NOBODY, "NEXT_HOP": 1}
QUEUE: list[tuple[str, dict[str, Any]]] = [
    ("no datagram was lost", {"answered": ASKED - 1}),
    ("nft diverted every request", with_first(nft={"clients": 9, "forwarded": 10})),
    ("the queue's workers run", with_first(datapaths={"socket": "up", "nfqueue": "degraded"})),
    ("the queue re-addressed, no socket did", with_first(socket=BUSY_SOCKET)),
    ("nft saw each of them leave", with_first(nft={"clients": 10, "forwarded": 9})),
    ("nft saw each of them leave", with_first(nft={"clients": 10, "forwarded": 11})),
]
PROGRAM: list[tuple[str, dict[str, Any]]] = [
    ("no datagram was lost", {"answered": ASKED - 1}),
    ("an XDP program on every node", with_first(datapaths={"socket": "up"})),
    ("XDP re-addressed; sockets, at most what wanted a neighbour", with_first(socket=BUSY_SOCKET)),
    ("each request that entered was relayed an answer", with_first(program={**NOBODY, "ENTERED": 5})),
]


@pytest.mark.parametrize(
    ("datapath", "claim", "changes"),
    [
        (datapath, claim, changes)
        for datapath, cases in (
            ("socket", EVERYWHERE),
            ("nfqueue", EVERYWHERE + QUEUE),
            ("ebpf", EVERYWHERE + PROGRAM),
        )
        for claim, changes in cases
    ],
)
def test_one_wrong_fact_fails_its_check_alone(datapath: str, claim: str, changes: dict[str, Any]) -> None:
    assert failing(datapath, **changes) == [claim]
