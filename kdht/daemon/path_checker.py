"""Checks again and again that this node's fast path forwards, through the real path and from outside.

It asks a neighbour (REFLECT, kdht/node/reflector.py) for a TRACE that this node has to forward back to the neighbour.
The neighbour's answer to that TRACE comes to the checker's own port. So the interface, the rules, the verdict, the
kernel's routing and every later rule of this host are checked. If the neighbour does not answer the REFLECT, the result is unknown.

It also compares how many packets the path re-addressed with how many of them were seen to leave this host: a rule
that drops only some clients' packets lets the checks through.

While the path is aside, everything goes to the socket but these TRACEs: the path knows them by the first half of
their request IDs. So the path comes back by itself as soon as it works.

Contract: one thread, in the network namespace of the thread that started it. It ends at `stop` only.
"""

import itertools
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

from kdht._routing import Core
from kdht.datapath.base import FastPath
from kdht.datapath.departures import Departures, State
from kdht.datapath.path_check import MISSES, PathCheck, Result
from kdht.datapath.upkeep import Upkeep, started
from kdht.errors import BadPacket
from kdht.node.reflector import ANSWER_BYTES
from kdht.wire import Address, Contact, Message, parse
from kdht.wire._shared import MAX_BODY, MAX_DATAGRAM, Op

log = logging.getLogger(__name__)

# In turn: one neighbour with a fault of its own must not decide about this node's path.
NEIGHBOURS = 8
"""The closest contacts that are asked in turn."""
FIRST_WAIT_S = 0.4
"""For the neighbour's answer to a REFLECT."""
LEAST_WAIT_S = 0.25
"""For the forwarded TRACE's, after that; or three times as long as the first answer took."""
STOP_S = 0.1
"""Within which a waiting checker notices that it has to end."""
NOBODY_S = 1.0
"""Until the next look for a neighbour, where there is none."""
SIZES = (MAX_BODY, ANSWER_BYTES)
"""Bytes of body, in turn: the longest, and the shortest that a REFLECT has."""


class PathChecker:
    """Of one fast path. `own`: this node's usual address of each IP version."""

    def __init__(self, path: FastPath, core: Core, node_id: bytes, own: Sequence[Address]) -> None:
        self._path = path
        self._core = core
        self._id = node_id
        self._own = own
        self._number = itertools.count(random.getrandbits(16))
        # Random: a stranger with a known number could pass the rule that stops all other messages.
        self.marker = random.getrandbits(32) | 1
        """The first half of the request IDs. Not 0, and nobody else's."""
        self._checks = {address.is_ipv4: PathCheck() for address in own}
        self._upkeep = Upkeep(log, "the check of the fast path")
        self._begun = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._sockets: dict[bool, socket.socket] = {}
        self._known: dict[bool, list[Contact]] = {address.is_ipv4: [] for address in own}
        """The neighbours of each IP version, or the last ones that were known."""
        self._turn = 0
        self._departures = Departures()
        self._suspects = False
        """The path was told to look why packets seem to get lost."""
        self._taken = 0
        self._untaken = 0
        """Good checks in a row that the path did not see."""

    def start(self) -> None:
        """Raises DatapathError. The first check waits for `begin`."""
        self._thread = started("kdht-path-checker", self._run)

    def begin(self) -> None:
        """Check from now on."""
        self._begun.set()

    def stop(self) -> None:
        """Called before the path stops. May be called again."""
        self._stopping.set()
        self._begun.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def trouble(self) -> str:
        """Why the path cannot be checked. Empty: it can."""
        return self._upkeep.why

    def status(self) -> dict[str, int]:
        """How many checks had each result, and how many re-addressed packets are `missing`."""
        results = {
            result.value: sum(check.results[result] for check in self._checks.values()) for result in Result
        }
        return {**results, "missing": self._departures.missing}

    # --- The thread

    def _run(self) -> None:
        self._begun.wait()
        with ExitStack() as undo:
            while not self._stopping.is_set():
                self._pause_s = NOBODY_S
                self._upkeep.attempt(lambda: self._round(undo))
                self._stopping.wait(self._pause_s)

    def _round(self, undo: ExitStack) -> None:
        """One check for each IP version. Raises OSError, or KdhtError of the path."""
        pauses, failed = [], None
        for address in self._own:
            try:
                pauses.append(self._check(address, undo))
            except OSError as error:
                # The other IP version can be checked all the same, and the counts compared.
                failed = error
        self._compare()
        self._pause_s = min(*pauses, self._departures.pause_s, NOBODY_S)
        if failed is not None:
            raise failed

    def _check(self, address: Address, undo: ExitStack) -> float:
        """One check. Returns the seconds until the next."""
        for neighbour in self._neighbours(address.is_ipv4):
            check = self._checks[address.is_ipv4]
            was = check.aside
            result = self._ask(address, neighbour, undo)
            check.add(result, time.monotonic())
            if was or check.aside:
                self._follow()
            elif result is Result.GOOD and not self._departures.aside:
                self._see_what_was_taken()
            return check.pause_s(result)
        return NOBODY_S

    def _compare(self) -> None:
        """Whether what the path re-addressed left this host."""
        if any(check.aside for check in self._checks.values()):
            self._departures.forget()
            return
        was = self._departures.aside
        self._departures.add(self._path.departed(), self._path.host_changes(), time.monotonic())
        if was or self._departures.aside:
            self._follow()
        whole = self._departures.state is State.WHOLE
        # While the path is aside only checks are on it, and they tell nothing.
        if whole == self._suspects and not self._departures.aside:
            self._path.suspect(not whole)
            self._suspects = not whole

    def _follow(self) -> None:
        """Have the path where it belongs, and let it look why packets are lost."""
        if self._departures.aside or any(check.aside for check in self._checks.values()):
            self._path.step_aside(self.marker)
        else:
            self._path.step_back()

    def _see_what_was_taken(self) -> None:
        """A message that arrived without the path took the socket: nothing is lost, but the path does nothing."""
        taken = self._path.taken()
        self._untaken = self._untaken + 1 if taken == self._taken else 0
        self._taken = taken
        self._path.passed_by(self._untaken >= MISSES)

    def _neighbours(self, is_ipv4: bool) -> Iterator[Contact]:
        """The next one to ask, if there is any."""
        found = [
            contact
            for contact in self._core.closest(self._id, NEIGHBOURS)
            if contact.address.is_ipv4 == is_ipv4 and contact.id != self._id
        ]
        # A path that loses everything loses the other nodes' answers to pings too: then all neighbours look dead.
        self._known[is_ipv4] = found or self._known[is_ipv4]
        self._turn += 1
        if known := self._known[is_ipv4]:
            yield known[self._turn % len(known)]

    def _ask(self, address: Address, neighbour: Contact, undo: ExitStack) -> Result:
        here = self._socket(address, undo)
        request_id = self.marker << 32 | next(self._number) & 0xFFFFFFFF
        begun = time.monotonic()
        with suppress(OSError):  # no route, say: the neighbour does not answer
            here.sendto(
                self._request(address, neighbour, request_id), (neighbour.address.host, neighbour.port)
            )
        answered, forwarded = False, False
        ends = begun + FIRST_WAIT_S
        while not forwarded and (op := self._received(here, request_id, ends)) is not None:
            if op is Op.REFLECT and not answered:
                answered = True
                took = time.monotonic() - begun
                # The forwarded TRACE makes one way more than the answer. Three times as long is a loss.
                ends = begun + took + max(LEAST_WAIT_S, 3 * took)
            forwarded = forwarded or op is Op.TRACE
        return Result.GOOD if forwarded else Result.LOST if answered else Result.UNKNOWN

    def _request(self, address: Address, neighbour: Contact, request_id: int) -> bytes:
        size = SIZES[request_id % len(SIZES)]
        message = Message(
            op=Op.REFLECT,
            key=neighbour.id,
            request_id=request_id,
            hops=1,
            client=address,
            body=self._id + bytes(size - len(self._id)),
        ).pack()
        self._core.seal(message, int(time.time()))
        return bytes(message)

    def _received(self, here: socket.socket, request_id: int, ends: float) -> Op | None:
        """The op of the next answer to this request; None after the end."""
        while (left := ends - time.monotonic()) > 0 and not self._stopping.is_set():
            here.settimeout(min(left, STOP_S))
            try:
                answer = parse(here.recv(MAX_DATAGRAM))
            except (BadPacket, OSError):  # OSError: time is up, or an ICMP error about an earlier one
                continue
            if answer.request_id == request_id and answer.is_reply:
                return answer.op
        return None

    def _socket(self, address: Address, undo: ExitStack) -> socket.socket:
        here = self._sockets.get(address.is_ipv4)
        if here is None:
            family = socket.AF_INET if address.is_ipv4 else socket.AF_INET6
            with ExitStack() as unused:
                here = unused.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                # A port of its own: what comes to the node's port is taken by its datapaths.
                here.bind((address.host, 0))
                undo.push(unused.pop_all())
            self._sockets[address.is_ipv4] = here
        return here
