"""The commands, as a user calls them: what they say, what they write, and their exit statuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import replay_fixtures
from paths import TESTS
from replay_fixtures import DIRECTORY, NOW

from kdht.program.reasons import WHY
from kdht.replay import tables
from kdht.replay.capture import Capture
from kdht.replay.failed import failed_check
from kdht.replay.packets import complete
from kdht.wire._shared import Reason

REPLAY = [sys.executable, "-m", "kdht.replay.main"]
RIGHT, HOSTILE = DIRECTORY / "right-ipv4", DIRECTORY / "hostile-ipv4"
TABLE = RIGHT / "table.json"


def replay(*arguments: str | Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*REPLAY, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    if check is not None:
        assert done.returncode == check, done.stderr
    return done


def lines(*arguments: str | Path, check: int | None = 0) -> list[dict]:
    return [json.loads(line) for line in replay(*arguments, "--json", check=check).stdout.splitlines()]


def on(fixture: Path) -> list[str | Path]:
    return [fixture / "capture.pcap", "--table", fixture / "table.json"]


# --- Fixtures ------------------------------------------------------------------------------------


def test_every_fixture_has_its_verdicts_by_core_and_oracle():
    found = lines("check", DIRECTORY, "--impl", "core", "--impl", "oracle")
    assert {each["fixture"] for each in found} >= {*replay_fixtures.cases(), "not-ours"}
    assert [each for each in found if each["mismatches"] or not each["packets"]] == []


@pytest.mark.parametrize("name", list(replay_fixtures.cases()))
def test_every_bad_input_gets_the_expected_reason(name):
    family, cases = replay_fixtures.cases()[name]
    found = replay_fixtures.reasons(family, [case.packet for case in cases])
    wrong = [(case, reason) for case, reason in zip(cases, found, strict=True) if case.reason is not reason]
    assert wrong == []


def test_the_committed_fixtures_are_what_they_are_made_from(tmp_path):
    replay_fixtures.write_all(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 3 * (len(replay_fixtures.cases()) + 1)
    for path in made:
        assert (tmp_path / path).read_bytes() == (DIRECTORY / path).read_bytes(), path


def test_the_bad_inputs_cover_every_drop_reason():
    met = {case.reason for _, cases in replay_fixtures.cases().values() for case in cases}
    elsewhere = {
        "NOT_READY",
        "NO_NEIGHBOUR",
        "NO_ROUTE",
        "RATE_LIMITED",
        "PARTIAL",
        "ANSWERED",
        "NO_ROOM",
        "BAD_MAGIC",
        "FAMILY",
        "NEEDS_COOKIE",
        "NOT_ALLOWED",
    }
    assert {reason.name for reason in Reason} - {reason.name for reason in met} == elsewhere


def test_update_writes_the_verdicts_and_keeps_the_remarks(tmp_path):
    for path in RIGHT.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    expected = (tmp_path / "verdicts.txt").read_text()
    (tmp_path / "verdicts.txt").write_text(expected.replace("FORWARD ENTERED", "DROP BAD_OP", 1))
    found = lines("check", tmp_path, check=8)
    assert [(each["number"], each["expected"].split()[:2]) for each in found[0]["mismatches"]] == [
        (1, ["DROP", "BAD_OP"])
    ]
    replay("check", tmp_path, "--update")
    assert (tmp_path / "verdicts.txt").read_text() == expected


def test_a_missing_and_a_surplus_line_are_mismatches(tmp_path):
    for path in RIGHT.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / "verdicts.txt").read_text().splitlines(keepends=True)
    (tmp_path / "verdicts.txt").write_text("".join(text[:2] + text[3:]) + "99 DROP BAD_OP\n")
    assert [each["number"] for each in lines("check", tmp_path, check=8)[0]["mismatches"]] == [1, 99]


# --- run ---------------------------------------------------------------------------------------------


def test_run_tells_verdicts_next_hops_and_changed_bytes():
    found = lines("run", *on(RIGHT), "--bytes")
    entered = found[0]
    assert (entered["verdict"], entered["reason"], entered["target"]) == (
        "FORWARD",
        "ENTERED",
        "10.0.0.2:5348",
    )
    assert entered["next_hop"] == "80" + "00" * 19
    changes = {each["field"]: (each["before"], each["after"]) for each in entered["changes"]}
    assert changes["flags"] == ("00", "02")
    assert changes["IP.dst"] == ("0a000001", "0a000002")
    assert changes["time"] == ("00000000", f"{NOW:08x}")
    assert found[-1]["packets"] == 8
    assert sum(row["packets"] for row in found[-1]["reasons"]) == 8


def test_run_writes_the_packets_that_went_on(tmp_path):
    replay("run", *on(RIGHT), "--write", tmp_path / "out.pcap")
    expected = [
        case
        for case in replay_fixtures.cases()["right-ipv4"][1]
        if case.reason.name in ("ENTERED", "NEXT_HOP", "RELAYED")
    ]
    with Capture(tmp_path / "out.pcap") as capture:
        batch = next(iter(capture))
        assert len(batch) == len(expected)
        for index, case in enumerate(expected):
            assert len(batch.packet(index)) == len(case.packet)
            assert batch.packet(index) != case.packet


def test_run_shows_what_was_chosen():
    assert [each["number"] for each in lines("run", *on(RIGHT), "--packet", "3-4")[:-1]] == [3, 4]
    assert {each["reason"] for each in lines("run", *on(RIGHT), "--only", "local", "--all")[:-1]} == {
        "OWNER", "ATTEMPT_ENDS", "TRACE_ENDS", "CONTROL"
    }  # fmt: skip
    assert len(lines("run", *on(HOSTILE), "--show", "3")) == 4
    assert len(lines("run", *on(DIRECTORY / "not-ours"))) == 1
    assert len(lines("run", *on(DIRECTORY / "not-ours"), "--all")) == 19


def test_run_judges_at_the_second_that_is_asked_for():
    by_time = [
        lines("run", *on(RIGHT), "--now", now, "--packet", "2")[0]["reason"]
        for now in ("capture", str(NOW + 61))
    ]
    assert by_time == ["NEXT_HOP", "STALE"]


def test_a_cut_capture_is_judged_as_far_as_it_goes(tmp_path):
    path = tmp_path / "cut.pcap"
    path.write_bytes((RIGHT / "capture.pcap").read_bytes()[:-10])
    done = replay("run", path, "--table", TABLE, "--json", check=2)
    assert json.loads(done.stdout.splitlines()[-1])["packets"] == 7
    assert "cut off" in done.stderr
    assert done.stderr.count("\n") == 1


# --- diff --------------------------------------------------------------------------------------------


def test_diff_finds_nothing_between_equal_implementations():
    (summary,) = lines("diff", *on(HOSTILE), "--impl", "oracle", "--impl", "core")
    assert summary["differences"] == {"core": 0}


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("core:hops", "other bytes in hops"),
        ("core:replies", "RELAY against DROP"),
        ("core:window", "DROP against FORWARD"),
        ("oracle:hops", "other bytes in hops"),
    ],
)
def test_diff_finds_an_artificial_fault_and_tells_it_readably(fault, what):
    fixture = HOSTILE if fault == "core:window" else RIGHT
    arguments = ["diff", *on(fixture), "--impl", "oracle", "--impl", "core", "--fault", fault]
    found = lines(*arguments, check=8)
    assert what in {each["what"] for each in found[:-1]}
    assert found[-1]["differences"]["core"] == len(found) - 1 > 0
    told = replay(*arguments, check=8).stdout
    assert what in told
    assert f"core against oracle: {len(found) - 1} difference" in told


def test_a_lost_contact_shows_as_another_next_hop(tmp_path):
    table = DIRECTORY.parent / "replay-two-hops.json"
    capture = RIGHT / "capture.pcap"
    found = lines(
        "diff", capture, "--table", table, "-i", "oracle", "-i", "core", "--fault", "core:next-hop", check=8
    )
    told = {each["verdicts"][0].get("target"): each["verdicts"][1].get("target") for each in found[:-1]}
    assert told["10.0.0.3:5348"] == "10.0.0.2:5348"
    assert {"layer": "IP", "field": "dst", "values": ["10.0.0.3", "10.0.0.2"]} in found[0]["fields"]


def test_diff_needs_two_implementations():
    assert "two or more" in replay("diff", *on(RIGHT), "--impl", "core", check=2).stderr


# --- explain, generate, bench --------------------------------------------------------------------------


def test_explain_knows_every_reason():
    assert set(WHY) == set(Reason)


def test_explain_shows_tags_candidates_and_why():
    (found,) = lines("explain", RIGHT / "capture.pcap", "2", "--table", TABLE)
    assert found["verdict"]["reason"] == "NEXT_HOP"
    assert {"check": "header tag", "found": "right"} in found["checks"]
    assert {"check": "age", "found": "0 s, at most 60 s either way"} in found["checks"]
    assert [row["address"] for row in found["candidates"]] == ["10.0.0.2:5348", "this node"]
    assert {"layer": "KDHT", "name": "hops", "value": "9"} in found["fields"]
    told = replay("explain", RIGHT / "capture.pcap", "2", "--table", TABLE).stdout
    assert "one hop fewer left" in told


def test_explain_takes_hexadecimal_and_files(tmp_path):
    raw = bytes(replay_fixtures.mutated(replay_fixtures.member(4), 4, "wrong header tag"))
    (tmp_path / "packet").write_bytes(raw)
    for what in (raw.hex(), raw.hex(":"), tmp_path / "packet"):
        (found,) = lines("explain", what, "--table", TABLE)
        assert found["verdict"]["reason"] == "BAD_TAG"
        assert any(each["found"].startswith("wrong: ") for each in found["checks"])
    (found,) = lines("explain", "4500", "--table", TABLE)
    assert found["verdict"]["reason"] == "BAD_IP"
    assert "no packet" in replay("explain", RIGHT / "capture.pcap", "99", "--table", TABLE, check=2).stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({16: b"\x0a\x00\x00\x4d"}, "target 10.0.0.77 is not own (10.0.0.1, fd00::1)"),
        ({22: b"\x14\xe5"}, "port 5349, not 5348"),
        ({16: b"\x0a\x00\x00\x4d", 22: b"\x14\xe5"}, "is not own (10.0.0.1, fd00::1); port 5349, not 5348"),
        ({9: b"\x06"}, "protocol 6 (TCP), not UDP"),
        ({28: b"HTTP"}, "the message begins with 48545450, not 4b444854"),
        ({0: b"\x50"}, "there is no IP header in the frame"),
        ({24: b"\x00\x09"}, "UDP's length is 9 bytes, IP's leaves"),
        ({32: b"\x07"}, "version 7"),
        ({12: b"\xe0\x00\x00\x01"}, "source 224.0.0.1"),
    ],
)
def test_explain_says_which_check_failed(change, said):
    raw = bytearray(replay_fixtures.client(4))
    for at, value in change.items():
        raw[at : at + len(value)] = value
    complete(raw)
    (found,) = lines("explain", raw.hex(), "--table", TABLE)
    assert said in found["why"][-1]


@pytest.mark.parametrize("name", ["hostile-ipv4", "hostile-ipv6", "truncated-ipv4", "not-ours"])
def test_every_failed_check_can_be_told(name):
    table = tables.load(DIRECTORY / name / "table.json")
    with Capture(DIRECTORY / name / "capture.pcap") as capture:
        packets = [batch.packet(i) for batch in capture for i in range(len(batch))]
    said = {failed_check(table, packet, NOW, reason) for packet in packets for reason in Reason}
    assert len(said) > 10


@pytest.mark.parametrize(
    "arguments", [["run", "-"], ["diff", "-", "-i", "oracle", "-i", "core"], ["explain", "-", "2"]]
)
def test_captures_come_from_standard_input(arguments):
    with (RIGHT / "capture.pcap").open("rb") as file:
        done = subprocess.run(
            [*REPLAY, *arguments, "--table", TABLE, "--json"],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]).get("packets", 8) == 8


def test_tunnels_are_told(tmp_path):
    (summary,) = lines("run", DIRECTORY / "not-ours/capture.pcap", "--table", TABLE)
    assert summary["skipped"] == {"not IP": 2}
    assert (
        "not looked into: 2 not IP"
        in replay("run", DIRECTORY / "not-ours/capture.pcap", "--table", TABLE).stdout
    )


@pytest.mark.parametrize("kind", ["mix", "mutations", "flood", "retransmissions"])
def test_generated_captures_are_seeded_and_judged_alike(tmp_path, kind):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        replay(
            "generate", tmp_path / name, "--table", TABLE, "--kind", kind, "--count", "400", "--seed", seed
        )
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    (summary,) = lines("diff", tmp_path / "a", "--table", TABLE, "-i", "oracle", "-i", "core")
    assert (summary["packets"], summary["differences"]) == (400, {"core": 0})
    assert len(summary["reasons"]) >= (12 if kind == "mutations" else 2)


def test_bench_gives_figures_and_ratios():
    (found,) = lines("bench", *on(RIGHT), "-i", "core", "-i", "oracle", "--rounds", "2", "--seconds", "0.2")
    figures = {each["implementation"]: each for each in found["figures"]}
    assert set(figures) == {"reading alone", "core", "oracle"}
    assert figures["core"]["ratio"] == 1
    assert all(each["packets_per_second"] > 0 and len(each["rounds"]) == 2 for each in figures.values())
    assert figures["oracle"]["cpu_nanoseconds"] > figures["core"]["cpu_nanoseconds"] > 0


# --- Users' mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "none.pcap", "--table", TABLE], "none.pcap: No such file"),
        (["run", TABLE, "--table", TABLE], "no magic number of pcap"),
        (["run", RIGHT / "capture.pcap"], "which node judges"),
        (["run", RIGHT / "capture.pcap", "--table", "none.json"], "none.json: No such file"),
        (["run", RIGHT / "capture.pcap", "--table", RIGHT / "capture.pcap"], "not a table"),
        (["run", *on(RIGHT), "--packet", "x"], "--packet is a number or a range"),
        (["run", *on(RIGHT), "--now", "soon"], "--now is a unix second"),
        (["run", *on(RIGHT), "--impl", "perl"], "perl"),
        (["run", *on(RIGHT), "--write", "/no/where"], "make the directory /no first"),
        (["run", *on(RIGHT), "--config", "x"], "go with --socket"),
        (["check", RIGHT / "none"], "not a directory"),
        (["check", TESTS / "vectors"], "holds no fixture"),
        (["run", *on(RIGHT), "--socket", "x"], "either --table or --socket"),
        (["run", *on(RIGHT), "--node", "10.0.0.1:5348"], "name its control socket with --socket"),
        (["bench", "-", "--table", TABLE], "name a file"),
        (["explain", "zz", "--table", TABLE], "hexadecimal digits or a file"),
        (["diff", *on(RIGHT), "--fault", "core:luck"], "no fault is called luck"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_and_status_2(arguments, said):
    done = replay(*arguments, check=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_no_daemon_is_status_5(tmp_path):
    done = replay(
        "run", RIGHT / "capture.pcap", "--socket", tmp_path / "sock", "--secret", f"1:{TABLE}", check=5
    )
    assert "no such socket" in done.stderr
