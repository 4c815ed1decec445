"""Queries to answers: judges, looks names up, and repeats itself cheaply. One event loop.

A query that is the same as one before but for its ID gets the same bytes within the same second of the day: the TTLs are the
same, too. So what dnspython does, it does once a second for each question.
"""

from collections.abc import Callable
from typing import NamedTuple

from kdht.errors import BadPacket
from kdht.faces.dns.answers import Answerer, Question
from kdht.faces.dns.lookups import Lookups
from kdht.faces.dns.messages import is_cut
from kdht.faces.rates import Rates
from kdht.times import SteadyTime, UnixTime
from kdht.wire.addresses import Address

MAX_REPEATED = 4096
"""Different queries of one second."""
ID_LEN = 2


class _Repeated(NamedTuple):
    """An answer to an asker by UDP without a cookie."""

    tail: bytes
    """All but its ID."""
    is_longer: bool
    """Than its question."""


class DnsService:
    """`rates`: each client's queries. `may_amplify`: see Answerer."""

    def __init__(
        self,
        answerer: Answerer,
        lookups: Lookups,
        rates: Rates,
        may_amplify: Callable[[Address, SteadyTime], bool],
        unix: Callable[[], UnixTime],
        steady: Callable[[], SteadyTime],
        count: Callable[[str], None],
    ) -> None:
        self._answerer = answerer
        self._lookups = lookups
        self._rates = rates
        self._may_amplify = may_amplify
        self._unix = unix
        self._steady = steady
        self._count = count
        self._repeated: dict[tuple[bytes, bool], _Repeated] = {}
        self._second = 0

    def at_once(self, data: bytes, asker: Address, *, stream: bool) -> bytes | Question | None:
        """The answer to untrusted bytes, None for no answer, or a question that takes a look into the cluster (`later`)."""
        if not self._rates.allows(asker.ip, self._steady()):
            self._count("rate_limited")
            return None
        if not stream and (answer := self._repeat(data, asker)) is not None:
            self._count("repeated")
            return answer
        try:
            judged = self._answerer.judge(data, asker, self._unix(), stream=stream)
        except BadPacket as bad:
            self._count(f"dropped_{bad.reason.lower()}")
            return None
        if isinstance(judged, bytes):
            return judged
        entries = () if judged.wanted is None else self._lookups.known(judged.wanted)
        if entries is None:
            return judged
        answer = self._answerer.answer(judged, entries, self._unix(), self._steady())
        self._keep(data, judged, answer, stream=stream)
        return answer

    async def later(self, question: Question) -> bytes:
        """The answer to a question that `at_once` could not answer."""
        assert question.wanted is not None
        entries = await self._lookups.find(question.wanted)
        return self._answerer.answer(question, entries, self._unix(), self._steady())

    async def stop(self) -> None:
        await self._lookups.stop()

    # --- The same answer again

    def _repeat(self, data: bytes, asker: Address) -> bytes | None:
        kept = self._repeated.get((data[ID_LEN:], asker.is_loopback))
        if kept is None or int(self._unix()) != self._second:
            return None
        if kept.is_longer and not asker.is_loopback and not self._may_amplify(asker, self._steady()):
            return None
        return data[:ID_LEN] + kept.tail

    def _keep(self, data: bytes, question: Question, answer: bytes, *, stream: bool) -> None:
        second = int(self._unix())
        if second != self._second or len(self._repeated) >= MAX_REPEATED:
            self._repeated.clear()
            self._second = second
        # One with a cookie is for one asker alone. One that was cut may be whole for the next asker.
        if not stream and not question.cookie and not is_cut(answer):
            key = data[ID_LEN:], question.asker.is_loopback
            self._repeated[key] = _Repeated(answer[ID_LEN:], len(answer) > len(data))
