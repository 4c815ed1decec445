"""Queries to answers: judges, looks names up, and repeats itself cheaply. One event loop."""

from collections.abc import Callable

from kdht.errors import BadPacket
from kdht.faces.dns.answers import Answerer, Question
from kdht.faces.dns.lookups import Lookups
from kdht.faces.dns.repeats import ID_LEN, Repeats, again
from kdht.faces.rates import Rates
from kdht.times import SteadyTime, UnixTime
from kdht.wire.addresses import Address


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
        self._repeats = Repeats()

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
        known = None if judged.wanted is None else self._lookups.known(judged.wanted)
        if judged.wanted is not None and known is None:
            return judged
        entries, most_ttl = (known.entries, known.most_ttl) if known else ((), None)
        now = self._unix()
        answer = self._answerer.answer(judged, entries, now, self._steady(), most_ttl)
        if not stream:
            self._repeats.keep(data, judged, known, answer, now)
        return answer

    async def later(self, question: Question) -> bytes:
        """The answer to a question that `at_once` could not answer."""
        assert question.wanted is not None
        entries = await self._lookups.find(question.wanted)
        return self._answerer.answer(question, entries, self._unix(), self._steady())

    async def stop(self) -> None:
        await self._lookups.stop()

    def _repeat(self, data: bytes, asker: Address) -> bytes | None:
        """The answer to the same question as one before."""
        kept = self._repeats.find(data, loopback=asker.is_loopback)
        if kept is None:
            return None
        known = None if kept.name is None else self._lookups.known(kept.name)
        answer = again(kept, known, data[:ID_LEN], self._unix())
        if (
            answer is not None
            and kept.is_longer
            and not asker.is_loopback
            and not self._may_amplify(asker, self._steady())
        ):
            return None
        return answer
