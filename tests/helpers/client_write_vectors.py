"""The cases of writes and of tokens for client_vectors.py."""

from typing import Any

from client_requests import (
    ANNOUNCE,
    BAD_VERSION,
    BUSY,
    CLOCK,
    CONFLICT,
    COOKIE,
    COOKIE_NEEDED,
    DELETE,
    DENIED,
    GET,
    HELLO,
    MEMBERS,
    NOT_FOUND,
    OK,
    PUT,
    QUORUM_GET,
    SOON,
    TOKEN,
    TOO_FEW,
    UNCONFIRMED,
    WITHDRAW,
    WORLD,
    Request,
    announcement,
    blake,
    case,
    hexed,
    page,
    question,
    record,
    scope_of,
    step,
)


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
