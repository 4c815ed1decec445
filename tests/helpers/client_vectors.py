"""Makes tests/vectors/clients.json: what a thin client sends, byte by byte, and what it makes of the answers.

From hashlib and struct alone, by clients/README.md and docs/protocol.md, so that no code of kdht vouches for itself:

    python tests/helpers/client_vectors.py >tests/vectors/clients.json

A case is a driver's `open`, and steps: a command, the datagrams in their order, each with what is sent back when it
arrives, and the reply of the driver. The clock stands at CLOCK, and request numbers begin with NUMBER.
"""

import base64
import json
import struct
from hashlib import blake2b
from typing import Any

CLOCK = 1_800_000_000_000_000
NUMBER = 0x123456789ABCDE
COOKIE = 0x61BEB7207AF57838
GET, PUT, DELETE, QUORUM_GET, ANNOUNCE, WITHDRAW, MEMBERS = 1, 2, 3, 5, 7, 8, 9
OK, NOT_FOUND, NOT_RESPONSIBLE, COOKIE_NEEDED, TOO_LARGE, STORAGE_FAILED, BUSY = 0, 1, 2, 3, 4, 6, 7
CONFLICT, UNCONFIRMED, UNREACHABLE, DENIED, BAD_VERSION, TOO_FEW = 9, 10, 11, 12, 13, 14
PROVEN = 8
TOKEN = "kdht1.BwBxP7MAAQIDBAUGBwjMNT2FDwroK9xEdhL0UjA9eByr3ZCWwho"  # tokens.json: read, write, delete; scope "billing"
PATIENT = 3000
"""Milliseconds until a retry, where none is to come."""
SOON = 200


def blake(data: bytes, size: int, **how: Any) -> bytes:
    return blake2b(data, digest_size=size, **how).digest()


def scope_of(name: bytes) -> bytes:
    return blake(name, 8, person=b"kdht-scope")


class Request:
    """One request of a case: its datagrams, and the replies to them."""

    def __init__(
        self,
        place: int,
        op: int,
        name: bytes,
        body: bytes = b"",
        *,
        max_reply: int = 0,
        cookie: int = 0,
        token: str = "",
        scope: bytes = b"",
    ) -> None:
        self.number, self.op, self.body = NUMBER + place, op, body
        self.max_reply, self.cookie = max_reply, cookie
        self.inner = blake(name, 20)
        self.token = base64.urlsafe_b64decode(token[6:] + "=") if token else b""
        scope = self.token[14:22] if token else scope
        self.key = blake(self.inner + scope, 20, person=b"kdht-scoped") if scope else self.inner

    def head(
        self, index: int, attempt: int, flags: int, status: int, length: int, reply_room: int, cookie: int
    ) -> bytes:
        id = self.number << 6 | index
        return struct.pack(
            ">4s4BQ20s2BH42xH4xQ16x",
            b"KDHT", 1, self.op, flags, 0, id, self.key, attempt, status, length, reply_room, cookie,
        )  # fmt: skip

    def sent(
        self,
        index: int = 0,
        attempt: int = 0,
        *,
        cookie: int | None = None,
        body: bytes | None = None,
        seq: int = CLOCK,
    ) -> str:
        """Datagram number `index`. `seq`: of its proof, if the client has a token."""
        body = self.body if body is None else body
        flags = 0
        if self.token:
            flags = PROVEN
            claims = b"\1" + self.token[:2] + b"\0" + self.token[2:22] + self.inner + struct.pack(">Q", seq)
            request = bytes([self.op]) + self.key + body + claims
            body += claims + blake(request, 12, key=self.token[22:], person=b"kdht-proof")
        shown = self.cookie if cookie is None else cookie
        return (self.head(index, attempt, flags, 0, len(body), self.max_reply, shown) + body).hex()

    def reply(
        self, status: int = OK, body: bytes = b"", index: int = 0, attempt: int = 0, cookie: int = 0
    ) -> str:
        """To datagram number `index`."""
        return (self.head(index, attempt, 3, status, len(body), 0, cookie) + body).hex()


def record(version: int, ttl: int = 0, value: bytes = b"", *, condition: int | None = None) -> bytes:
    if condition is None:
        return struct.pack(">QII", version, ttl, 0) + value
    return struct.pack(">QIIQ", version, ttl, 1, condition) + value


def announcement(version: int, ttl: int, name: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">QII", version, ttl, 0) + name + payload


def question(cursor: int, flags: int = 0) -> bytes:
    return struct.pack(">QI", cursor, flags)


def page(total: int, following: int, *members: tuple[int, int, bytes]) -> bytes:
    parts = [struct.pack(">IIQ", total, 0, following)]
    parts += [struct.pack(">QIH", id, ttl, len(payload)) + payload for id, ttl, payload in members]
    return b"".join(parts)


def step(command: str, reply: str, *datagrams: tuple[str, ...]) -> dict[str, Any]:
    """`datagrams`: the request, and the replies that it makes the node send."""
    sent = [{"request": request, "replies": replies} for request, *replies in datagrams]
    return {"command": command, "datagrams": sent, "reply": reply}


def case(
    name: str, *steps: dict[str, Any], nodes: int = 1, retry_ms: int = PATIENT, **options: str | int
) -> dict[str, Any]:
    return {"name": name, "nodes": nodes, "open": {"retry_ms": retry_ms, **options}, "steps": steps}


def hexed(text: bytes) -> str:
    return text.hex()


HELLO = hexed(b"hello")
WORLD = hexed(b"world")


def reads() -> list[dict[str, Any]]:
    get = f"get key={HELLO}"
    found = f"ok version=7 ttl=0 value={WORLD}"

    def asked(place: int = 0, **how: Any) -> Request:
        return Request(place, GET, b"hello", max_reply=1120, **how)

    one, two, quorum = asked(), asked(1), Request(2, QUORUM_GET, b"hello", max_reply=1120)
    small, empty = Request(0, GET, b"hello", max_reply=20), Request(1, GET, b"", max_reply=1120)
    again = asked(1, cookie=COOKIE)
    return [
        case(
            "a get of a value, of none, and of a majority",
            step(get, f"ok version=7 ttl=60 value={WORLD}", (one.sent(), one.reply(OK, record(7, 60, b"world")))),
            step(get, "ok version=9 ttl=0 value=", (two.sent(), two.reply(OK, record(9)))),
            step(f"{get} quorum=1", "error NOT_FOUND", (quorum.sent(), quorum.reply(NOT_FOUND, record(20)))),
        ),
        case(
            "a limit on the value, and an empty key",
            step(f"{get} max=4", "error TOO_LARGE", (small.sent(), small.reply(TOO_LARGE))),
            step("get key=", f"ok version=7 ttl=0 value={'ab' * 1104}", (empty.sent(), empty.reply(OK, record(7, 0, b"\xab" * 1104)))),
        ),
        case(
            "an answer without a record",
            step(get, "error ANSWER", (one.sent(), one.reply(OK, bytes(15)))),
        ),
        case(
            "the cookie is shown from then on",
            step("cookie", f"ok cookie={0:016x}"),
            step(
                get,
                found,
                (one.sent(), one.reply(COOKIE_NEEDED, cookie=COOKIE)),
                (one.sent(1, cookie=COOKIE), one.reply(OK, record(7, 0, b"world"), index=1)),
            ),
            step("cookie", f"ok cookie={COOKIE:016x}"),
            step(get, found, (again.sent(), again.reply(OK, record(7, 0, b"world")))),
        ),
        case(
            "a cluster that does not take its own cookie",
            step(
                get,
                "error COOKIE_NEEDED",
                (one.sent(), one.reply(COOKIE_NEEDED, cookie=COOKIE)),
                (one.sent(1, cookie=COOKIE), one.reply(COOKIE_NEEDED, index=1, cookie=COOKIE)),
            ),
        ),
        case(
            "beside the replicas the routes begin again",
            step(
                get,
                found,
                (one.sent(), one.reply(NOT_RESPONSIBLE)),
                (one.sent(1, 1), one.reply(NOT_RESPONSIBLE, index=1, attempt=1)),
                (one.sent(2, 0), one.reply(OK, record(7, 0, b"world"), index=2)),
            ),
        ),
        case(
            "the next route follows at once after a failed disk, and after a closed port behind the node",
            step(
                get,
                found,
                (one.sent(), one.reply(STORAGE_FAILED)),
                (one.sent(1, 1), one.reply(UNREACHABLE, index=1, attempt=1)),
                (one.sent(2, 2), one.reply(OK, record(7, 0, b"world"), index=2, attempt=2)),
            ),
        ),
        case(
            "a busy node is asked again later, and so are too few replicas",
            step(
                get,
                found,
                (one.sent(), one.reply(BUSY)),
                (one.sent(1, 1), one.reply(UNCONFIRMED, index=1, attempt=1)),
                (one.sent(2, 2), one.reply(OK, record(7, 0, b"world"), index=2, attempt=2)),
            ),
            retry_ms=SOON,
        ),
        case(
            "a lost try, whose answer comes late",
            step(get, found, (one.sent(),), (one.sent(1, 1), one.reply(OK, record(7, 0, b"world")))),
            retry_ms=SOON,
        ),
        case(
            "no answer",
            step(get, "error TIMEOUT", (one.sent(),), (one.sent(1, 1),)),
            retry_ms=SOON, timeout_ms=1500, attempts=2,
        ),
        case(
            "the last refusal is the reason",
            step(get, "error BUSY", (one.sent(), one.reply(BUSY)), (one.sent(1, 1), one.reply(BUSY, index=1, attempt=1))),
            retry_ms=SOON, timeout_ms=3000, attempts=2,
        ),
        case(
            "another node is asked after a lost try",
            step(get, found, (one.sent(),), (one.sent(1, 1), one.reply(OK, record(7, 0, b"world"), index=1, attempt=1))),
            nodes=2, retry_ms=SOON,
        ),
    ]  # fmt: skip


def writes() -> list[dict[str, Any]]:
    put = f"put key={HELLO} value={WORLD}"

    def write(
        place: int, version: int, op: int = PUT, *, ttl: int = 0, value: bytes = b"world", **how: Any
    ) -> Request:
        if op == DELETE:
            value = b""
        return Request(
            place, op, b"hello", record(version, ttl, value, condition=how.pop("condition", None)), **how
        )

    one, two, three = write(0, CLOCK), write(1, CLOCK + 1, ttl=3600), write(2, CLOCK + 2, value=b"")
    largest = write(3, CLOCK + 3, value=b"\xab" * 1104)
    later = write(0, 0).sent  # with the body given
    new, over, conflict = (
        write(0, CLOCK, condition=0),
        write(1, CLOCK + 1, condition=7),
        write(2, CLOCK + 2, condition=7),
    )
    after = write(3, CLOCK + 3)
    ahead, ahead_2 = write(0, CLOCK + 6, condition=CLOCK + 5), write(1, CLOCK + 7)
    gone, none, gone_if = (
        write(0, CLOCK, DELETE),
        write(1, CLOCK + 1, DELETE),
        write(2, CLOCK + 2, DELETE, condition=9),
    )
    slow = CLOCK - 10_000_000
    return [
        case(
            "puts: a version above every earlier one, a TTL, an empty and the largest value",
            step(put, f"ok version={CLOCK}", (one.sent(), one.reply(OK, record(CLOCK)))),
            step(f"{put} ttl=3600", f"ok version={CLOCK + 1}", (two.sent(), two.reply(OK, record(CLOCK + 1, 3600)))),
            step(f"put key={HELLO} value=", f"ok version={CLOCK + 2}", (three.sent(), three.reply(OK, record(CLOCK + 2)))),
            step(f"put key={HELLO} value={'ab' * 1104}", f"ok version={CLOCK + 3}", (largest.sent(), largest.reply(OK, record(CLOCK + 3)))),
            step(f"put key={HELLO} value={'ab' * 1105}", "error TOO_LARGE"),
            step(f"{put} ttl=0", "error ARGUMENT"),
            step(f"{put} ttl=4294967296", "error ARGUMENT"),
        ),
        case(
            "conditional puts",
            step(f"{put} if_version=0", f"ok version={CLOCK}", (new.sent(), new.reply(OK, record(CLOCK)))),
            step(f"{put} if_version=7", f"ok version={CLOCK + 1}", (over.sent(), over.reply(OK, record(CLOCK + 1)))),
            step(f"{put} if_version=7", f"error CONFLICT version={CLOCK + 1}", (conflict.sent(), conflict.reply(CONFLICT, record(CLOCK + 1)))),
            step(f"put key={HELLO} value={'ab' * 1097} if_version=7", "error TOO_LARGE"),
            step(put, f"ok version={CLOCK + 3}", (after.sent(), after.reply(OK, record(CLOCK + 3)))),
        ),
        case(
            "a condition ahead of the clock: the clock follows",
            step(f"{put} if_version={CLOCK + 5}", f"ok version={CLOCK + 6}", (ahead.sent(), ahead.reply(OK, record(CLOCK + 6)))),
            step(put, f"ok version={CLOCK + 7}", (ahead_2.sent(), ahead_2.reply(OK, record(CLOCK + 7)))),
        ),
        case(
            "deletes",
            step(f"delete key={HELLO}", "ok found=1", (gone.sent(), gone.reply(OK))),
            step(f"delete key={HELLO}", "ok found=0", (none.sent(), none.reply(NOT_FOUND))),
            step(f"delete key={HELLO} if_version=9", "error CONFLICT version=0", (gone_if.sent(), gone_if.reply(CONFLICT, record(0)))),
        ),
        case(
            "a greater version stands: the write gets one above it, by the same route",
            step(
                put,
                f"ok version={CLOCK + 51}",
                (one.sent(), one.reply(BAD_VERSION, record(CLOCK + 50))),
                (later(1, 1 - 1, body=record(CLOCK + 51, 0, b"world")), one.reply(OK, record(CLOCK + 51), index=1)),
            ),
            step(put, f"ok version={CLOCK + 52}", (write(1, CLOCK + 52).sent(), write(1, 0).reply(OK, record(CLOCK + 52)))),
        ),
        case(
            "a clock ten seconds ahead is corrected",
            step(
                put,
                f"ok version={slow + 1}",
                (one.sent(), one.reply(BAD_VERSION, record(slow))),
                (later(1, body=record(slow + 1, 0, b"world")), one.reply(OK, record(slow + 1), index=1)),
            ),
            step(put, f"ok version={slow + 2}", (write(1, slow + 2).sent(), write(1, 0).reply(OK, record(slow + 2)))),
        ),
        case(
            "a node that tells a version beyond all ordinary ones is not believed",
            step(
                put,
                f"ok version={CLOCK}",
                (one.sent(), one.reply(BAD_VERSION, record(1 << 63))),
                (one.sent(1, 1), one.reply(OK, record(CLOCK), index=1, attempt=1)),
            ),
        ),
        case(
            "a lost try is repeated with its version, and a conflict is then in doubt",
            step(
                f"{put} if_version=0",
                "error UNCONFIRMED",
                (new.sent(),),
                (new.sent(1, 1), new.reply(CONFLICT, record(5), index=1, attempt=1)),
            ),
            retry_ms=SOON,
        ),
        case(
            "the doubt ends if the lost try turns out to have changed nothing",
            step(
                f"{put} if_version=0",
                "error CONFLICT version=5",
                (new.sent(),),
                (new.sent(1, 1), new.reply(CONFLICT, record(5), index=1, attempt=1), new.reply(BUSY)),
            ),
            retry_ms=SOON,
        ),
        case(
            "the doubt ends with the late answer that it was done",
            step(
                f"{put} if_version=0",
                f"ok version={CLOCK}",
                (new.sent(),),
                (new.sent(1, 1), new.reply(CONFLICT, record(CLOCK), index=1, attempt=1), new.reply(OK, record(CLOCK))),
            ),
            retry_ms=SOON,
        ),
        case(
            "in doubt no version is renewed: other replicas are asked with the same one",
            step(
                put,
                f"ok version={CLOCK}",
                (one.sent(),),
                (one.sent(1, 1), one.reply(BAD_VERSION, record(CLOCK + 9), index=1, attempt=1)),
                (one.sent(2, 2), one.reply(OK, record(CLOCK), index=2, attempt=2)),
            ),
            retry_ms=SOON,
        ),
        case(
            "an unconfirmed try leaves the doubt, even if all others are refused",
            step(
                put,
                "error UNCONFIRMED",
                (one.sent(), one.reply(UNCONFIRMED)),
                (one.sent(1, 1), one.reply(DENIED, index=1, attempt=1)),
            ),
            retry_ms=SOON,
        ),
        case(
            "refusals that end a write",
            step(put, "error DENIED", (one.sent(), one.reply(DENIED))),
            step(put, "error TOO_FEW", (write(1, CLOCK + 1).sent(), write(1, 0).reply(TOO_FEW))),
        ),
        case(
            "a write that shows its cookie",
            step(
                put,
                f"ok version={CLOCK}",
                (one.sent(), one.reply(COOKIE_NEEDED, cookie=COOKIE)),
                (one.sent(1, cookie=COOKIE), one.reply(OK, record(CLOCK), index=1, cookie=COOKIE)),
            ),
        ),
    ]  # fmt: skip


def rights() -> list[dict[str, Any]]:
    put, get = (
        f"put key={hexed(b'config/db')} value={hexed(b'10.0.0.7:5432')}",
        f"get key={hexed(b'config/db')}",
    )

    def call(place: int, op: int, body: bytes = b"", **how: Any) -> Request:
        return Request(place, op, b"config/db", body, token=TOKEN, **how)

    value = b"10.0.0.7:5432"
    write, read = call(0, PUT, record(CLOCK, 3600, value)), call(1, GET, max_reply=1120)
    change = call(2, PUT, record(CLOCK + 1, 0, value, condition=7))
    remove = call(3, DELETE, record(CLOCK + 2))
    timed, timed_2 = call(0, GET, max_reply=1120), call(1, QUORUM_GET, max_reply=1120)
    drifted = CLOCK + 90_000_000
    ahead, later = (
        call(0, PUT, record(CLOCK + 6, 0, value, condition=CLOCK + 5)),
        call(1, GET, max_reply=1120),
    )
    renewed = call(0, PUT, record(CLOCK, 0, value))
    scope = scope_of(b"billing")
    open_put = Request(0, PUT, b"config/db", record(CLOCK, 0, value), scope=scope)
    open_get = Request(1, GET, b"config/db", max_reply=1120, scope=scope)
    name = blake(b"web", 8, person=b"kdht-member")
    join = Request(0, ANNOUNCE, b"web", announcement(CLOCK, 30, name, b"web"), token=TOKEN)
    leave = Request(1, WITHDRAW, b"web", announcement(CLOCK + 1, 86400, name), token=TOKEN)
    listing = Request(2, MEMBERS, b"web", question(1, 1), token=TOKEN)
    token = {"token": TOKEN}
    return [
        case(
            "requests with a token",
            step(f"{put} ttl=3600", f"ok version={CLOCK}", (write.sent(), write.reply(OK, record(CLOCK, 3600)))),
            step(get, f"ok version={CLOCK} ttl=9 value={hexed(value)}", (read.sent(), read.reply(OK, record(CLOCK, 9, value)))),
            step(f"{put} if_version=7", f"ok version={CLOCK + 1}", (change.sent(seq=CLOCK + 1), change.reply(OK, record(CLOCK + 1)))),
            step(f"delete key={hexed(b'config/db')}", "ok found=1", (remove.sent(seq=CLOCK + 2), remove.reply(OK))),
            step(f"put key=61 value={'ab' * 1041}", "error TOO_LARGE"),
            step(f"put key=61 value={'ab' * 1033} if_version=0", "error TOO_LARGE"),
            **token,
        ),
        case(
            "a node with another time: a read is proven anew",
            step(
                get,
                "error NOT_FOUND",
                (timed.sent(), timed.reply(BAD_VERSION, record(drifted))),
                (timed.sent(1, seq=drifted), timed.reply(NOT_FOUND, index=1)),
            ),
            step(f"{get} quorum=1", "error NOT_FOUND", (timed_2.sent(seq=drifted), timed_2.reply(NOT_FOUND))),
            **token,
        ),
        case(
            "a node whose time keeps changing",
            step(
                get,
                "error BAD_VERSION",
                (timed.sent(), timed.reply(BAD_VERSION, record(drifted))),
                (timed.sent(1, seq=drifted), timed.reply(BAD_VERSION, record(CLOCK), index=1)),
            ),
            **token,
        ),
        case(
            "a renewed version is proven anew",
            step(
                put,
                f"ok version={CLOCK + 51}",
                (renewed.sent(), renewed.reply(BAD_VERSION, record(CLOCK + 50))),
                (
                    renewed.sent(1, seq=CLOCK + 51, body=record(CLOCK + 51, 0, value)),
                    renewed.reply(OK, record(CLOCK + 51), index=1),
                ),
            ),
            **token,
        ),
        case(
            "a token of a scope's holder in sets",
            step(f"announce set={hexed(b'web')} payload={hexed(b'web')} ttl=30", f"ok version={CLOCK}", (join.sent(), join.reply(OK, record(CLOCK, 30)))),
            step(f"withdraw set={hexed(b'web')} payload={hexed(b'web')}", "ok found=1", (leave.sent(seq=CLOCK + 1), leave.reply(OK))),
            step(f"members set={hexed(b'web')} quorum=1", "ok members=", (listing.sent(), listing.reply(OK, page(0, 0)))),
            **token,
        ),
        case(
            "a clock that followed a condition tells its time in proofs",
            step(f"{put} if_version={CLOCK + 5}", f"ok version={CLOCK + 6}", (ahead.sent(seq=CLOCK + 6), ahead.reply(OK, record(CLOCK + 6)))),
            step(get, "error NOT_FOUND", (later.sent(seq=CLOCK + 6), later.reply(NOT_FOUND, record(CLOCK + 9)))),
            **token,
        ),
        case(
            "a scope without a token",
            step(put, f"ok version={CLOCK}", (open_put.sent(), open_put.reply(OK, record(CLOCK)))),
            step(get, "error NOT_FOUND", (open_get.sent(), open_get.reply(NOT_FOUND, record(CLOCK + 9)))),
            scope=hexed(b"billing"),
        ),
        case(
            "the scope of the token, by name",
            step(get, "error NOT_FOUND", (timed.sent(), timed.reply(NOT_FOUND))),
            scope=hexed(b"billing"), **token,
        ),
    ]  # fmt: skip


def sets() -> list[dict[str, Any]]:
    payload, web = b"10.0.0.7:80", hexed(b"web")
    own, chosen, long = (
        blake(each, 8, person=b"kdht-member") for each in (payload, b"web", b"a longer name")
    )
    eight = b"web-0001"

    def announce(place: int, name: bytes, ttl: int = 30, value: bytes = payload) -> Request:
        return Request(place, ANNOUNCE, b"web", announcement(CLOCK + place, ttl, name, value))

    one, two, three = announce(0, own), announce(1, eight, 86400), announce(2, long, 1, b"\xcd" * 256)
    gone = Request(3, WITHDRAW, b"web", announcement(CLOCK + 3, 86400, own))
    none = Request(4, WITHDRAW, b"web", announcement(CLOCK + 4, 60, chosen))
    first, second = Request(0, MEMBERS, b"web", question(1)), Request(1, MEMBERS, b"web", question(0x5000))
    listing = [(0x1000, 9, b"a"), (0x4FFF, 8, b"")]
    more = [(0x8000000000000001, 7, b"\xcd" * 256)]
    command = f"announce set={web} payload={hexed(payload)}"
    return [
        case(
            "announcements and withdrawals",
            step(f"{command} ttl=30", f"ok version={CLOCK}", (one.sent(), one.reply(OK, record(CLOCK, 30)))),
            step(f"{command} ttl=86400 member={hexed(eight)}", f"ok version={CLOCK + 1}", (two.sent(), two.reply(OK, record(CLOCK + 1, 86400)))),
            step(f"announce set={web} payload={'cd' * 256} ttl=1 member={hexed(b'a longer name')}", f"ok version={CLOCK + 2}", (three.sent(), three.reply(OK, record(CLOCK + 2, 1)))),
            step(f"withdraw set={web} payload={hexed(payload)}", "ok found=1", (gone.sent(), gone.reply(OK))),
            step(f"withdraw set={web} payload= ttl=60 member={web}", "ok found=0", (none.sent(), none.reply(NOT_FOUND))),
            step(f"{command} ttl=0", "error ARGUMENT"),
            step(f"{command} ttl=86401", "error ARGUMENT"),
            step(f"withdraw set={web} payload= ttl=0", "error ARGUMENT"),
            step(f"announce set={web} payload={'cd' * 257} ttl=1", "error TOO_LARGE"),
        ),
        case(
            "members in two pages",
            step(
                f"members set={web}",
                f"ok members=0000000000001000:9:61,0000000000004fff:8:,8000000000000001:7:{'cd' * 256}",
                (first.sent(), first.reply(OK, page(3, 0x5000, *listing))),
                (second.sent(), second.reply(OK, page(3, 0, *more))),
            ),
        ),
        case(
            "a set without members",
            step(f"members set={web}", "ok members=", (first.sent(), first.reply(OK, page(0, 0)))),
        ),
        case(
            "a page that is cut off",
            step(f"members set={web}", "error ANSWER", (first.sent(), first.reply(OK, page(3, 0, *listing)[:-1]))),
        ),
        case(
            "a member with too long a payload",
            step(f"members set={web}", "error ANSWER", (first.sent(), first.reply(OK, page(1, 0, (0x1000, 9, b"\xcd" * 257))))),
        ),
        case(
            "a page without a head",
            step(f"members set={web}", "error ANSWER", (first.sent(), first.reply(OK, bytes(15)))),
        ),
        case(
            "a walk that leads backwards",
            step(f"members set={web}", "error ANSWER", (first.sent(), first.reply(OK, page(3, 1, *listing)))),
        ),
    ]  # fmt: skip


def document() -> dict[str, Any]:
    return {
        "source": "tests/helpers/client_vectors.py, which has hashlib and struct alone",
        "clock_us": CLOCK,
        "number": NUMBER,
        "bad_options": [
            {"token": TOKEN[:-1]},
            {"token": TOKEN[:-1] + "p"},
            {"token": TOKEN[:-1] + "!"},
            {"token": TOKEN.replace("kdht1", "kdht2")},
            {"token": TOKEN, "scope": hexed(b"other")},
            {"attempts": 33},
        ],
        "cases": reads() + writes() + rights() + sets(),
    }


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
