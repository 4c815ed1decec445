"""Table files, what they refuse, and captures made fit to be given away."""

import json
from pathlib import Path

import pytest
import replay_fixtures
from replay_fixtures import DIRECTORY, NOW

from kdht.errors import ConfigError
from kdht.replay import tables
from kdht.replay._capture import Batch
from kdht.replay.generate import Generator
from kdht.replay.implementations import made
from kdht.replay.packets import take_apart
from kdht.replay.redate import completed, redated
from kdht.replay.scrub import Scrubber
from kdht.replay.tables import KeyEntry, ReplayTable
from kdht.wire import Address, Record
from kdht.wire._shared import Op, Reason

TABLE = DIRECTORY.parent / "replay-two-hops.json"


def test_a_table_file_round_trips():
    table = tables.load(TABLE)
    assert (table.self_id, table.port, table.now) == (bytes(20), 5348, NOW)
    assert [str(contact.address) for contact in table.contacts] == ["10.0.0.3:5348", "10.0.0.2:5348"]
    assert table.source6 == Address.of("fd00::1", 0).ip
    secrets = [KeyEntry(1, tables.FIXTURE_SECRET)]
    assert json.loads(tables.to_file(table, secrets)) == json.loads(TABLE.read_text())


def test_toml_and_a_secret_in_a_file(tmp_path):
    (tmp_path / "secret").write_text("0123456789abcdef\n")
    (tmp_path / "table.toml").write_text(
        f'id = "{bytes(20).hex()}"\nown = ["10.0.0.1"]\ncookies = false\n[[key]]\nepoch = 3\nfile = "secret"\n'
        f'[[contacts]]\nid = "{replay_fixtures.FAR.hex()}"\naddress = "[fd00::9]:99"\n'
    )
    table = tables.load(tmp_path / "table.toml")
    assert table.keys[0] == tables.keys.derive(3, b"0123456789abcdef")
    assert (table.source6, table.cookies, table.now) == (None, False, None)
    assert table.contacts[0].address == Address.of("fd00::9", 99)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "00"}, "an ID is 40 hexadecimal digits"),
        ({"own": []}, "1 to 8 addresses"),
        ({"own": ["here"]}, "here"),
        ({"key": []}, "at least one secret"),
        ({"key": [{"epoch": 1}]}, "either `secret` or `file`"),
        ({"key": [{"secret": "short"}]}, "at least 16 bytes"),
        ({"key": [{"file": "none"}]}, "name the file with the cluster's secret"),
        ({"contacts": [{"id": "00" * 20, "address": "10.0.0.9"}]}, "the node itself"),
        ({"contacts": [{"id": "ff" * 20, "address": "10.0.0.9:0"}]}, "port"),
        (
            {"contacts": [{"id": f"ff{i:038x}", "address": "10.0.0.9"} for i in range(41)]},
            "holds 40 contacts",
        ),
        ({"hop_limit": 0}, "hop limit"),
        ({"own_": 1}, "own_"),
    ],
)
def test_an_invalid_table_is_refused_in_one_line(tmp_path, change, said):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**json.loads(TABLE.read_text()), **change}))
    with pytest.raises(ConfigError, match=said) as refused:
        tables.load(path)
    assert str(refused.value).startswith(f"{path}: ")


# --- Given away ------------------------------------------------------------------------------------


def reasons(table: ReplayTable, packets: list[bytes], now: int | None = NOW) -> list[Reason | None]:
    with made("core", table) as core:
        results = core.run(Batch.of(packets, [NOW * 10**9] * len(packets)), now).results
        return [results.get(index).reason for index in range(len(packets))]


def traffic() -> tuple[ReplayTable, list[bytes]]:
    """Generated packets and every bad input, for one node with a public address and a wider table."""
    table = replay_fixtures.table(4)
    generator = Generator(table, 7)
    generated = [bytes(kind()) for kind in (generator.mix, generator.mutation) for _ in range(400)]
    cases = [
        case.packet
        for name, (family, cases) in replay_fixtures.cases().items()
        if family == 4
        for case in cases
    ]
    return table, generated + cases


@pytest.mark.parametrize(("addresses", "values"), [(True, True), (True, False), (False, True)])
def test_replacements_change_no_verdict_and_no_length(addresses, values):
    table, packets = traffic()
    scrubber = Scrubber(table, addresses=addresses, values=values, seed=1)
    after = [scrubber.packet(raw, NOW) for raw in packets]
    assert [len(raw) for raw in after] == [len(raw) for raw in packets]
    changed = [
        (one, other)
        for one, other in zip(reasons(table, packets), reasons(scrubber.table, after), strict=True)
        if one is not other
    ]
    assert changed == []


def test_an_anonymous_capture_has_no_addresses_ids_or_values():
    table = replay_fixtures.table(4)
    scrubber = Scrubber(table, addresses=True, values=True, seed=1)
    secret = b"what nobody may see"
    put = replay_fixtures.client(4, op=Op.PUT, body=Record(0, 1, 0, secret).pack())
    reply = replay_fixtures.reply(4, body=Record(1, 1, 0, secret).pack())
    contacts = bytes(range(20)) + bytes(range(50, 70)) + Address.of("198.51.100.7", 1).ip + b"\x14\xe4"
    found = replay_fixtures.reply(4, op=Op.FIND_NODE, body=contacts)
    for raw in (put, reply, found, replay_fixtures.member(4)):
        after = scrubber.packet(bytes(raw), NOW)
        for gone in (secret, replay_fixtures.FAR, bytes((198, 51, 100, 7)), bytes(range(50, 70))):
            assert gone not in after
        assert take_apart(after).checksum == "right"
    assert {entry.secret for entry in scrubber.secrets} == {f"{tables.FIXTURE_SECRET}, 1"}
    assert table.keys[0] not in scrubber.table.keys


def test_one_address_becomes_one_address_everywhere():
    scrubber = Scrubber(replay_fixtures.table(4), addresses=True, values=False, seed=1)
    one, two = (
        take_apart(scrubber.packet(bytes(make(4)), NOW))
        for make in (replay_fixtures.client, replay_fixtures.member)
    )
    assert one.target == two.target
    assert one.target.ip in scrubber.table.own
    assert two.source.ip == scrubber.table.contacts[0].ip
    assert two.message[48:64] == one.source.ip


# --- Another time --------------------------------------------------------------------------------------


def test_redating_changes_no_verdict():
    table, packets = traffic()
    later = NOW + 1_000_003
    after = [redated(table, raw, NOW, later) for raw in packets]
    expected = reasons(table, packets)
    assert reasons(table, after, later) == expected
    stale = reasons(table, packets, later)
    assert Reason.NEXT_HOP in expected
    assert Reason.NEXT_HOP not in stale


def test_a_partial_checksum_is_completed_as_a_device_would():
    datagram = take_apart(bytes(replay_fixtures.client(4)))
    for kind in ("partial", "right", "wrong", "zero"):
        raw = bytes(replay_fixtures.packet(datagram.message, datagram.source, datagram.target, kind))
        assert take_apart(raw).checksum == kind
        assert take_apart(completed(raw)).checksum == ("right" if kind == "partial" else kind)


def test_a_table_file_names_its_directory(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        tables.load(Path(tmp_path / "none.json"))
