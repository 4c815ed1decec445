"""Makes tests/vectors/clients.json: what a thin client sends, byte by byte, and what it makes of the answers.

From hashlib and struct alone, by clients/README.md and docs/protocol.md, so that no code of kdht vouches for itself:

    python tests/helpers/client_vectors.py >tests/vectors/clients.json

A case is a driver's `open`, and steps: a command, the datagrams in their order, each with what is sent back when it
arrives, and the reply of the driver. The clock stands at CLOCK, and request numbers begin with NUMBER.
"""

import json
from typing import Any

from client_requests import (
    ANNOUNCE,
    BUSY,
    CLOCK,
    COOKIE,
    COOKIE_NEEDED,
    GET,
    HELLO,
    MEMBERS,
    NOT_FOUND,
    NOT_RESPONSIBLE,
    NUMBER,
    OK,
    QUORUM_GET,
    SOON,
    STORAGE_FAILED,
    TOKEN,
    TOO_LARGE,
    UNCONFIRMED,
    UNREACHABLE,
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
    step,
)
from client_write_vectors import rights, writes


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
