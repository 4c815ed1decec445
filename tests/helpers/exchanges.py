"""Steps of a client's session on a clock that the tests turn: what was sent, what is received, which deadline passes."""

import random

from kdht import wire
from kdht.client import _calls as calls
from kdht.client._datagram import Send
from kdht.client._exchange import Exchange
from kdht.client._session import Session

GET = calls.get("hello")
PUT = calls.put("hello", b"world", None)
NOW_US = 1_800_000_000_000_000


def unix_us() -> int:
    """The clock that writes have their versions from; it stands still."""
    return NOW_US


def new_session(nodes: int = 1, timeout: float = 60.0, attempts: int = 8) -> Session:
    return Session(nodes, timeout=timeout, attempts=attempts, rng=random.Random(5348), unix_us=unix_us)


def sent(session: Session) -> Send | None:
    """The one datagram that the last step sent, if it sent any."""
    sends = session.outbox.copy()
    session.outbox.clear()
    assert len(sends) <= 1
    return sends[0] if sends else None


def opened(session: Session, call: calls.Call = GET, now: float = 0.0) -> tuple[Exchange, Send]:
    exchange = session.start(call, now)
    return exchange, sent(session)


def passes(session: Session, exchange: Exchange) -> Send | None:
    """The next deadline passes."""
    session.wake(exchange.deadline)
    return sent(session)


def received(session: Session, node: int, data: bytes, now: float, *, direct: bool = False) -> Send | None:
    session.receive(node, data, now, direct=direct)
    return sent(session)


def all_tries(session: Session, exchange: Exchange, first: Send) -> list[Send]:
    """Let every deadline pass until the exchange fails."""
    sends = [first]
    while not exchange.done:
        send = passes(session, exchange)
        if send is not None:
            sends.append(send)
    return sends


def attempts_of(sends: list[Send]) -> list[int]:
    return [wire.parse(send.data).attempt for send in sends]
