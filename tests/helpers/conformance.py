"""One script for the drivers of all clients: operations drawn from a seed, and the only right answer to each.

A write in doubt is looked at and, if it was not done, made again: so all clients end with the same transcript, however many
datagrams they lose.
"""

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from drivers import Driver

MAX_VALUE = 1040
"""Beside a proof."""
TTL = 600
DOUBTS = ("error UNCONFIRMED", "error TIMEOUT", "error BUSY")
MAX_DOUBTS = 20
"""Of one operation: then the cluster does not work."""


class State(NamedTuple):
    """What a key has: `version` 0 for no record."""

    version: int
    value: bytes


NONE = State(0, b"")


@dataclass
class Script:
    """Plays on keys of its own. `transcript` has the answers, without the numbers that differ between runs."""

    driver: Driver
    prefix: str
    seed: int
    transcript: list[str] = field(default_factory=list)
    doubts: int = 0
    _states: dict[bytes, State] = field(default_factory=dict)
    _past: dict[bytes, set[State]] = field(default_factory=dict)
    _members: set[bytes] = field(default_factory=set)

    def play(self, operations: int) -> None:
        """Raises AssertionError for a wrong answer."""
        rng = Random(self.seed)
        kinds = (self._put, self._put_over, self._put_new, self._put_stale, self._delete, self._delete_stale, self._read, self._read_any, self._announce, self._withdraw, self._list)  # fmt: skip
        for kind in [*kinds, *rng.choices(kinds, k=operations - len(kinds))]:
            key = f"{self.prefix}/{rng.randrange(4)}".encode()
            kind(key, rng)

    def final(self) -> dict[str, bytes]:
        """What the keys have, by the part of their names that all scripts share."""
        return {key.decode().removeprefix(self.prefix): state.value for key, state in self._states.items() if state.version}  # fmt: skip

    # --- Values

    def _put(self, key: bytes, rng: Random) -> None:
        self._write(key, rng)

    def _put_over(self, key: bytes, rng: Random) -> None:
        self._write(key, rng, self._state(key).version)

    def _put_new(self, key: bytes, rng: Random) -> None:
        self._write(key, rng, 0)

    def _put_stale(self, key: bytes, rng: Random) -> None:
        self._write(key, rng, self._state(key).version + 1)

    def _write(self, key: bytes, rng: Random, condition: int | None = None) -> None:
        value = rng.randbytes(rng.choice((0, 1, 100, MAX_VALUE - 8)))
        before = self._state(key)
        fields = {} if condition is None else {"if_version": condition}
        is_right = condition in (None, before.version)
        for _ in range(MAX_DOUBTS):
            answer = self.driver.ask("put", key=key, value=value, **fields)
            if answer in DOUBTS:
                self.doubts += 1
                now = self._look(key)
                if now != before:
                    assert is_right, f"put {key!r}: refused, and done all the same"
                    assert now.value == value
                    self._set(key, now)
                    self._note("put", "done")
                    return
                if is_right:
                    continue
                answer = f"error CONFLICT version={before.version}"
            if not is_right:
                assert answer == f"error CONFLICT version={before.version}", f"put {key!r}"
                self._note("put", "CONFLICT")
                return
            assert answer.startswith("ok version="), f"put {key!r}: {answer}"
            self._set(key, State(int(answer.removeprefix("ok version=")), value))
            assert self._state(key).version > before.version
            self._note("put", "done")
            return
        raise AssertionError(f"put {key!r}: in doubt {MAX_DOUBTS} times")

    def _delete(self, key: bytes, _: Random) -> None:
        before = self._state(key)
        for _again in range(MAX_DOUBTS):
            answer = self.driver.ask("delete", key=key)
            if answer in DOUBTS:
                self.doubts += 1
                if self._look(key) == NONE:
                    answer = f"ok found={bool(before.version):d}"
                else:
                    continue
            assert answer == f"ok found={bool(before.version):d}", f"delete {key!r}"
            self._set(key, NONE)
            self._note("delete", answer)
            return
        raise AssertionError(f"delete {key!r}: in doubt {MAX_DOUBTS} times")

    def _delete_stale(self, key: bytes, _: Random) -> None:
        before = self._state(key)
        answer = self.driver.ask("delete", key=key, if_version=before.version + 1)
        if answer in DOUBTS:
            self.doubts += 1
            assert self._look(key) == before
        else:
            assert answer == f"error CONFLICT version={before.version}", f"delete {key!r}"
        self._note("delete", "CONFLICT")

    def _read(self, key: bytes, _: Random) -> None:
        assert self._look(key) == self._state(key), f"get {key!r}"
        self._note("get", self._state(key).value.hex())

    def _read_any(self, key: bytes, _: Random) -> None:
        """A plain read may be behind, but never of what nobody wrote."""
        answer = self.driver.ask("get", key=key)
        assert answer in DOUBTS or _state_in(answer) in {NONE, *self._past.get(key, ())}, (
            f"get {key!r}: {answer}"
        )
        self._note("get", "some state")

    def _look(self, key: bytes) -> State:
        """What a majority has."""
        for _ in range(MAX_DOUBTS):
            answer = self.driver.ask("get", key=key, quorum=1)
            if answer not in DOUBTS:
                return _state_in(answer)
            self.doubts += 1
        raise AssertionError(f"get {key!r}: no answer {MAX_DOUBTS} times")

    # --- Sets

    @property
    def _set_name(self) -> bytes:
        return f"{self.prefix}/set".encode()

    def _announce(self, _: bytes, rng: Random) -> None:
        payload = b"10.0.0.%d:80" % rng.randrange(8)
        while (answer := self.driver.ask("announce", set=self._set_name, payload=payload, ttl=TTL)) in DOUBTS:
            self.doubts += 1
        assert answer.startswith("ok version="), answer
        self._members.add(payload)
        self._note("announce", payload.hex())

    def _withdraw(self, _: bytes, rng: Random) -> None:
        payload = b"10.0.0.%d:80" % rng.randrange(8)
        is_first = True
        while (answer := self.driver.ask("withdraw", set=self._set_name, payload=payload, ttl=TTL)) in DOUBTS:
            self.doubts += 1
            is_first = False
        found = payload in self._members
        assert answer == f"ok found={found:d}" or not is_first, answer
        self._members.discard(payload)
        self._note("withdraw", payload.hex())

    def _list(self, _: bytes, _rng: Random) -> None:
        while (answer := self.driver.ask("members", set=self._set_name, quorum=1)) in DOUBTS:
            self.doubts += 1
        members = [each.split(":") for each in answer.removeprefix("ok members=").split(",") if each]
        assert [id for id, _, _ in members] == sorted(id for id, _, _ in members)
        assert {bytes.fromhex(payload) for _, _, payload in members} == self._members, answer
        assert all(0 < int(ttl) <= TTL for _, ttl, _ in members)
        self._note("members", " ".join(sorted(payload for _, _, payload in members)))

    # --- The model

    def _state(self, key: bytes) -> State:
        return self._states.get(key, NONE)

    def _set(self, key: bytes, state: State) -> None:
        self._states[key] = state
        self._past.setdefault(key, set()).add(state)

    def _note(self, *words: str) -> None:
        self.transcript.append(" ".join(words))


def _state_in(answer: str) -> State:
    if answer == "error NOT_FOUND":
        return NONE
    word, version, _, value = answer.split(" ")
    assert word == "ok", answer
    return State(int(version.removeprefix("version=")), bytes.fromhex(value.removeprefix("value=")))


def increment(driver: Driver, key: bytes, times: int) -> tuple[int, int]:
    """Add one to a counter, by conditions: how often it was done, and how often it may have been."""
    done = perhaps = 0
    while done + perhaps < times:
        answer = driver.ask("get", key=key, quorum=1)
        if answer in DOUBTS:
            continue
        version, value = _state_in(answer)
        answer = driver.ask("put", key=key, value=b"%d" % (int(value or b"0") + 1), if_version=version)
        done += answer.startswith("ok")
        perhaps += answer in DOUBTS
        assert answer.startswith(("ok", "error CONFLICT")) or answer in DOUBTS, answer
    return done, perhaps
