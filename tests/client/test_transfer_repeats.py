"""Requests of a transfer that fail again and again: made anew as long as others are answered, and given up in the end."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from scripted_node import drop, refusal
from scripted_store import ScriptedStore

from kdht.client import _repeats
from kdht.client._calls import get
from kdht.client._manifest import CHUNK_SIZE
from kdht.client._repeats import LAST_PAUSE, MOST_AHEAD, Asked, Repeats
from kdht.errors import RequestError, RequestTimeout, Unconfirmed
from kdht.wire import Message, hash_key
from kdht.wire._shared import Op, Status

VALUE = random.Random(11).randbytes(1000 * CHUNK_SIZE + 5)
KEY = hash_key("big")
Ask = Callable[..., Any]
# More than one request has tries here.
REFUSALS = 4
IMPATIENT = {"timeout": 0.5, "attempts": 2}


def slowly(done: int, total: int) -> None:
    """A `progress` that makes a transfer last longer than a request may."""
    time.sleep(0.002)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_repeats, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(_repeats, "LAST_PAUSE", 0.02)


def refuse_one(
    store: ScriptedStore, op: Op, answer: Callable[[Message], list[bytes]], times: int
) -> list[Message]:
    """One chunk's requests get this answer, so many times. Returns the refused ones, as they come."""
    seen: dict[bytes, int] = {}
    refused: list[Message] = []

    def before(request: Message) -> list[bytes] | None:
        if request.op is not op or request.key == KEY:
            return None
        if seen.setdefault(request.key, len(seen)) != 20 or len(refused) == times:
            return None
        refused.append(request)
        return answer(request)

    store.before = before
    return refused


ANSWERS = {
    "full": lambda request: [refusal(request, Status.FULL)],
    "unconfirmed": lambda request: [refusal(request, Status.UNCONFIRMED)],
    "lost": lambda request: drop(None, request),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("op", [Op.PUT, Op.GET])
def test_a_request_that_used_up_its_tries_begins_anew(
    ask: Ask, short_pauses: None, short_waits: None, op: Op, answer: Any
) -> None:
    store = ScriptedStore()
    with store.node() as node:
        if op is Op.GET:
            ask(node.name, "put_large", "big", VALUE)
        refused = refuse_one(store, op, answer, REFUSALS)
        if op is Op.PUT:
            ask(node.name, "put_large", "big", VALUE, progress=slowly, client_options=IMPATIENT)
        assert ask(node.name, "get_large", "big", progress=slowly, client_options=IMPATIENT) == VALUE
    assert len(refused) == REFUSALS


def test_a_chunk_that_is_never_accepted_ends_the_upload_early(
    ask: Ask, short_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after all the others, and nothing stays."""
    monkeypatch.setattr(_repeats, "MOST_AHEAD", 100)
    store, done = ScriptedStore(), [0]

    def progress(now: int, total: int) -> None:
        slowly(now, total)
        done[0] = now

    with store.node() as node:
        refuse_one(store, Op.PUT, ANSWERS["full"], -1)
        with pytest.raises(RequestError, match=r"chunk .*no room"):
            ask(node.name, "put_large", "big", VALUE, progress=progress, client_options=IMPATIENT)
    assert done[0] < len(VALUE) - 100 * CHUNK_SIZE
    assert store.records == {}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda request: drop(None, request), RequestTimeout),
        (lambda request: [refusal(request, Status.UNCONFIRMED)], Unconfirmed),
    ],
)
@pytest.mark.parametrize("op", [Op.PUT, Op.GET])
def test_without_any_answer_it_ends_after_the_time_out(
    ask: Ask, op: Op, answer: Any, error: type[Exception]
) -> None:
    store = ScriptedStore()
    with store.node() as node:
        ask(node.name, "put_large", "big", VALUE)
        puts = iter(range(1_000_000))
        store.before = lambda request: answer(request) if request.op is op and next(puts) > 100 else None
        arguments = ("put_large", "big", VALUE) if op is Op.PUT else ("get_large", "big")
        with pytest.raises(error, match="chunk"):
            ask(node.name, *arguments, client_options={"timeout": 0.3})
        store.before = lambda request: None
        assert ask(node.name, "get_large", "big") == VALUE


def test_pauses_grow_and_the_first_failure_limits_what_is_begun() -> None:
    repeats, call, now = Repeats(random.Random(1)), get("k"), 0.0
    assert repeats.room(10_000) == MOST_AHEAD
    asked, waits = Asked(call), []
    for _ in range(8):
        repeats.failed(asked, 100, now)
        waits.append(repeats.next_due - now)
        now = repeats.next_due
        (asked,) = repeats.take_due(now)
    assert waits[0] < waits[2] < waits[4] <= LAST_PAUSE * 1.5
    repeats.failed(Asked(call), 500, now)
    assert repeats.room(600) == MOST_AHEAD - 500
    assert repeats.room(10_000) == 0
    repeats.answered(asked)
    assert repeats.room(600) == MOST_AHEAD - 100
    assert len(repeats) == 1
