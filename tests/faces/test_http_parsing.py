"""What the HTTP face reads by itself: targets, conditions, ranges."""

import time

import pytest

from kdht.faces.http import target as targets
from kdht.faces.http.answers import Refused
from kdht.faces.http.conditions import Conditions, Part, Tags, conditions_of, part_of
from kdht.faces.http.connection import MAX_HEAD
from kdht.faces.http.service import Names


@pytest.mark.parametrize(
    ("raw", "room", "name", "query"),
    [
        (b"/kv/greeting", "kv", "greeting", {}),
        (b"/kv/user/98", "kv", "user/98", {}),
        (b"/kv/user%2F98", "kv", "user/98", {}),
        (b"/kv/%C3%A4%20b+c", "kv", "ä b+c", {}),
        (b"/kv/a%3Fb%23c", "kv", "a?b#c", {}),
        (b"/kv/...", "kv", "...", {}),
        (b"/kv/a?quorum", "kv", "a", {"quorum": ""}),
        (b"/sets/web?member=a%26b&scope=x", "sets", "web", {"member": "a&b", "scope": "x"}),
        (b"http://10.0.0.1:80/kv/a?watch=1", "kv", "a", {"watch": "1"}),
        (b"/", "", "", {}),
        (b"/openapi.json", "openapi.json", "", {}),
        (b"/%6Bv/a", "%6Bv", "a", {}),
        (b"//kv/a", "", "kv/a", {}),
        (b"/kv/" + b"%C3%A4" * 512, "kv", "ä" * 512, {}),
    ],
)
def test_a_target_names_one_value(raw: bytes, room: str, name: str, query: dict[str, str]) -> None:
    assert targets.parse(raw) == (room, name, query)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"kv/a", b"*", b"/kv/", b"/kv/a/", b"/kv//a", b"/kv/.", b"/kv/..", b"/kv/../a", b"/kv/a/../b",
        b"/kv/%2e%2e/a", b"/kv/a/%2E", b"/kv/..%2fa", b"/kv/a%00b", b"/kv/a%0d%0aSet-Cookie:x", b"/kv/%7f", b"/kv/%c2%85",
        b"/kv/%ff", b"/kv/%c0%af", b"/kv/%ed%a0%80", b"/kv/%", b"/kv/%4", b"/kv/%zz", b"/kv/a\\b", b"/kv/a b", b"/kv/a#b",
        b"/kv/\xc3\xa4", b"/kv/<a>", b"/kv/a?x=%ff", b"/kv/a?x=1&x=2", b"/kv/a?" + b"&".join(b"a%d=" % n for n in range(9)),
        b"/kv/" + b"a" * 1025, b"/kv/" + b"%C3%A4" * 513, b"ftp://h/kv/a", b"http:/kv/a",
    ],
)  # fmt: skip
def test_a_trick_with_a_path_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as raised:
        targets.parse(raw)
    assert raised.value.answer.status == 400


def test_a_flag_and_an_unknown_parameter() -> None:
    asked = targets.parse(b"/kv/a?quorum&watch=false&sample=TRUE&scope=x")
    assert (asked.flag("quorum"), asked.flag("watch"), asked.flag("sample")) == (True, False, True)
    assert not asked.flag("other")
    assert (asked.text("scope", 1), asked.text("other", 1)) == ("x", None)
    with pytest.raises(Refused):
        asked.text("scope", 0)
    with pytest.raises(Refused):
        asked.flag("scope")
    with pytest.raises(Refused):
        asked.only("quorum", "watch", "sample")


@pytest.mark.parametrize(
    ("headers", "version", "holds"),
    [
        ({}, None, {0, 5, 6}),
        ({"if-match": '"5"'}, 5, {5}),
        ({"if-match": '"5", "6"'}, None, {5, 6}),
        ({"if-match": "*"}, None, {5, 6}),
        ({"if-match": 'W/"5"'}, None, set()),
        ({"if-match": '"other"'}, None, set()),
        ({"if-match": '"05"'}, None, set()),
        ({"if-none-match": "*"}, 0, {0}),
        ({"if-none-match": '"5"'}, None, {0, 6}),
        ({"if-none-match": 'W/"5"'}, None, {0, 6}),
        ({"if-match": '"5"', "if-none-match": '"6"'}, None, {5}),
        ({"if-match": "*", "if-none-match": '"6"'}, None, {5}),
    ],
)
def test_conditions(headers: dict[str, str], version: int | None, holds: set[int]) -> None:
    found = conditions_of(headers)
    assert {each for each in (0, 5, 6) if found.holds(each)} == holds
    assert found.version == version
    assert found.is_empty is (headers == {})


@pytest.mark.parametrize("text", ["", "5", '"5', '"5" 6', "**", '*, "5"', ",", '"' + '","' * 80 + '"'])
def test_a_condition_that_cannot_be_read_is_no_condition_passed_over(text: str) -> None:
    with pytest.raises(Refused):
        conditions_of({"if-match": text})


def test_a_version_beyond_64_bits_matches_nothing() -> None:
    assert conditions_of({"if-match": '"99999999999999999999"'}) == Conditions(Tags(any=False))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes=0-9", (0, 10)), ("bytes=5-", (5, 100)), ("bytes=-7", (93, 100)), ("bytes=-700", (0, 100)), ("bytes=90-900", (90, 100)),
        ("BYTES=1-1", (1, 2)), ("", None), ("bytes=-", None), ("bytes=5-4", None), ("bytes=0-1,3-4", None), ("lines=0-1", None),
        ("bytes=a-b", None), ("bytes=0-" + "9" * 30, None),
    ],
)  # fmt: skip
def test_ranges(text: str, part: tuple[int, int] | None) -> None:
    assert part_of({"range": text}, 5, 100) == part
    assert part_of({"range": text, "if-range": '"5"'}, 5, 100) == part
    assert part_of({"range": text, "if-range": '"4"'}, 5, 100) is None
    assert part_of({"range": text, "if-range": 'W/"5"'}, 5, 100) is None


@pytest.mark.parametrize(
    ("text", "size"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_a_range_that_is_not_there(text: str, size: int) -> None:
    with pytest.raises(Refused) as raised:
        part_of({"range": text}, 5, size)
    assert raised.value.answer.status == 416
    assert ("Content-Range", f"bytes */{size}") in raised.value.answer.headers
    assert Part(2, 4).content_range(9) == "bytes 2-3/9"


@pytest.mark.parametrize("text", ['"', ",", '",', '"a"', " ", 'W/"', "\t,"])
def test_a_hostile_condition_takes_no_time(text: str) -> None:
    begin = time.process_time()
    with pytest.raises(Refused):
        conditions_of({"if-match": text * (MAX_HEAD // len(text)) + "x"})
    assert time.process_time() - begin < 5


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("10.0.0.1", True), ("10.0.0.1:80", True), ("[::1]:80", True), ("localhost", True), ("kv.example", True), ("KV.example.:80", True),
        ("evil.example", False), ("kv.example.evil", False), ("10.0.0.1.evil", False), ("", False), ("[::1", False), ("a@b", False),
    ],
)  # fmt: skip
def test_names(host: str, is_ours: bool) -> None:
    assert Names(["kv.example"]).allow(host) is is_ours
    assert Names(["*"]).allow(host)
