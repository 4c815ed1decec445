"""A client of a virtual history: its actions, by the library's own operations, and their outcomes."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random
from typing import Any, NamedTuple

from histories import counters
from histories.record import Kind, Operation, Outcome
from histories.virtual.schedule import Action
from kdht.client import _calls as calls
from kdht.client import _steps as steps
from kdht.datapath.memory import START, MemoryNetwork
from kdht.errors import Conflict, KdhtError, NotFound, RequestTimeout, Unconfirmed
from kdht.lab.virtual import address_of
from kdht.lab.virtual.client import VirtualClient
from kdht.wire import Address, Record

TIMEOUT = 4.0
"""Seconds of the client library."""


class Actor:
    """One client: its actions one after the other, each written down by `note`."""

    def __init__(
        self,
        network: MemoryNetwork,
        number: int,
        entries: Sequence[int],
        actions: Iterable[Action],
        note: Callable[[Operation], None],
        *,
        seed: int,
        skew: float = 0.0,
        spread: bool = False,
        name: str = "",
    ) -> None:
        self.done = False
        self.address = Address.of(f"192.0.2.{number + 1}", 40000)
        self._name = name or f"c{number}"
        self._network = network
        self._actions = iter(actions)
        self._note_down = note
        self._seen: dict[str, tuple[int, str]] = {}
        self._writes = 0
        self._client = VirtualClient(
            network,
            self.address,
            [address_of(node) for node in entries],
            Random(f"client {seed} {number}"),
            timeout=TIMEOUT,
            skew=skew,
            spread=spread,
        )

    def next(self) -> None:
        action = next(self._actions, None)
        if action is None:
            self.done = True
            return
        self._network.call_at(self._network.now + action.pause, self._act, action)

    def _act(self, action: Action) -> None:
        key = action.key
        match action.kind:
            case "put":
                self._put(key, None)
            case "cas":
                self._put(key, self._version(key))
            case "create":
                self._put(key, 0)
            case "add":
                self._get(key, quorum=True, then=lambda outcome: self._add(key, outcome))
            case "delete":
                self._delete(key, None)
            case "cas_delete":
                self._delete(key, self._version(key) or 1)
            case "get" | "quorum_get":
                self._get(key, quorum=action.kind == "quorum_get", then=lambda outcome: self.next())

    def _version(self, key: str) -> int:
        return self._seen.get(key, (0, ""))[0]

    def _add(self, key: str, outcome: Outcome) -> None:
        if outcome == "unknown":
            self.next()
        else:
            self._put(key, self._version(key))

    def _put(self, key: str, condition: int | None) -> None:
        self._writes += 1
        value = f"{self._name}.{self._writes}"
        if key.startswith(counters.PREFIX):
            value = f"{counters.count(self._seen.get(key, (0, '0'))[1]) + 1} {value}"
        call = _Call("put", key, self._now(), value, condition)
        self._client.run(steps.put(key, value.encode(), None, condition), partial(self._wrote, call))

    def _delete(self, key: str, condition: int | None) -> None:
        call = _Call("delete", key, self._now(), None, condition)
        self._client.run(steps.delete(key, condition), partial(self._wrote, call))

    def _get(self, key: str, *, quorum: bool, then: Callable[[Outcome], None]) -> None:
        call = _Call("quorum_get" if quorum else "get", key, self._now())
        self._client.run(_read(key, quorum), partial(self._was_read, call, then))

    def _wrote(self, call: "_Call", result: Any, error: KdhtError | None) -> None:
        outcome: Outcome = "ok"
        version = 0
        if error is None:
            version = result if call.kind == "put" else 0
            self._seen[call.key] = version, call.value or "0"
            if call.kind == "delete" and result is False:
                outcome = "not_found"
        elif isinstance(error, Conflict):
            outcome, version = "conflict", error.version  # no quorum read: nothing to build on
        else:
            outcome = "unknown" if isinstance(error, Unconfirmed | RequestTimeout) else "refused"
        self._note(call, outcome, version, call.value, error)
        self.next()

    def _was_read(
        self, call: "_Call", then: Callable[[Outcome], None], record: Record | None, error: KdhtError | None
    ) -> None:
        outcome: Outcome = "unknown"
        version, value = 0, None
        if record is not None:
            outcome, version, value = "ok", record.version, record.value.decode()
            self._seen[call.key] = version, value
        elif isinstance(error, NotFound):
            outcome = "not_found"
            self._seen[call.key] = 0, "0"
        self._note(call, outcome, version, value, error)
        then(outcome)

    def _note(
        self, call: "_Call", outcome: Outcome, version: int, value: str | None, error: KdhtError | None
    ) -> None:
        is_plain = error is None or outcome in ("not_found", "conflict")
        self._note_down(
            Operation(
                client=self._name,
                kind=call.kind,
                key=call.key,
                invoked_ns=call.invoked_ns,
                returned_ns=self._now(),
                outcome=outcome,
                value=value,
                version=version,
                condition=call.condition,
                error="" if is_plain else str(error),
            )
        )

    def _now(self) -> int:
        return int((self._network.now - START) * 1e9)


class _Call(NamedTuple):
    """The request, and its time."""

    kind: Kind
    key: str
    invoked_ns: int
    value: str | None = None
    condition: int | None = None


def _read(key: str, quorum: bool) -> steps.Steps[Record]:
    return calls.record((yield calls.get(key, quorum=quorum)))
