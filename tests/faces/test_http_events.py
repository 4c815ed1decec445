"""The stream of events: what it tells while nodes come and go."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from kdht.errors import Denied, RequestTimeout
from kdht.faces.http import events
from kdht.faces.http.answers import Refused
from kdht.faces.http.caller_memory import CallerMemory
from kdht.faces.http.events import HEARTBEAT, Event, stream

TIMEOUT, DENIED, QUIET = "timeout", "denied", "quiet"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(events, "RESTART_SECONDS", 0.0)


def watches(*rounds: list[str]) -> Callable[[], AsyncGenerator[str, None]]:
    """Each call begins the next round: its states, and how it ends."""
    left = iter(rounds)

    async def watch() -> AsyncGenerator[str, None]:
        for state in next(left):
            if state == TIMEOUT:
                raise RequestTimeout("no answer")
            if state == DENIED:
                raise Denied("the token has expired")
            if state == QUIET:
                await asyncio.Event().wait()
            yield state

    return watch


def event_of(state: str) -> Event:
    return Event(state, f'"{state}"'.encode())


def told(watch: Callable[[], AsyncGenerator[str, None]], count: int, known: str = "") -> list[bytes]:
    """The first parts of the stream, fewer if it ends."""

    async def main() -> list[bytes]:
        found: list[bytes] = []
        parts = stream(watch, event_of, known, CallerMemory())
        async for part in parts:
            found.append(part)
            if len(found) == count:
                break
        await parts.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    return asyncio.run(main())


A, B = event_of("a").pack(), event_of("b").pack()


def test_the_form_of_an_event() -> None:
    assert A == b'id: a\ndata: "a"\n\n'


def test_a_watch_begins_again_after_a_silence_and_tells_nothing_twice() -> None:
    assert told(watches(["a", TIMEOUT], [TIMEOUT], ["a", "b", QUIET]), 4) == [A, HEARTBEAT, HEARTBEAT, B]


def test_it_beats_while_nothing_happens() -> None:
    assert told(watches(["a", QUIET]), 3) == [A, HEARTBEAT, HEARTBEAT]


def test_a_known_state_is_a_heartbeat() -> None:
    assert told(watches(["a", "b", QUIET]), 2, known="a") == [HEARTBEAT, B]


def test_an_error_is_raised_before_the_first_state_only() -> None:
    for first, kind in ((TIMEOUT, RequestTimeout), (DENIED, Denied)):
        with pytest.raises(kind):
            told(watches([first]), 1)
    assert told(watches(["a", DENIED]), 9) == [A]


def test_without_room_it_ends_and_the_browser_comes_back() -> None:
    async def main() -> None:
        parts = stream(watches(["a", "longer", QUIET]), event_of, "", CallerMemory(len(A)))
        assert await anext(parts) == A
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
        with pytest.raises(Refused):
            await anext(stream(watches(["a"]), event_of, "", CallerMemory(1)))

    asyncio.run(main())
