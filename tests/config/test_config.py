"""The configuration: every field refuses what it cannot use, in one line that names it."""

import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from msgspec import inspect as types
from paths import ROOT

from kdht.config import dev
from kdht.config.example import example
from kdht.config.kinds import plain
from kdht.config.reading import build, load
from kdht.config.schema import Config
from kdht.config.settings import resolve
from kdht.config.values import HostPort, split_port
from kdht.daemon.main import main
from kdht.errors import ConfigError
from kdht.wire import Address

SECRET = "sixteen bytes or more"
GOOD = {"node": {"listen": ["127.0.0.1"]}, "key": [{"secret": SECRET}]}


def with_field(path: str, value: object) -> dict:
    """GOOD with one field set; a `file` takes the place of the secret."""
    data = copy.deepcopy(GOOD)
    table, _, name = path.rpartition(".")
    if table.endswith("key"):
        holder = data if table == "key" else data.setdefault("access", {})
        (entry,) = holder["key"] = [{} if name == "file" else {"secret": SECRET}]
        entry[name] = value
    else:
        data.setdefault(table, {})[name] = value
    return data


def fields_in(struct: types.StructType, path: str) -> list[str]:
    """The fields below `path`, those of inner tables too."""
    found = []
    for field in struct.fields:
        kind = plain(field.type)
        kind = plain(kind.item_type) if isinstance(kind, types.ListType) else kind
        inner = isinstance(kind, types.StructType)
        found += fields_in(kind, f"{path}{field.name}.") if inner else [f"{path}{field.encode_name}"]
    return found


def every_field() -> list[str]:
    """table.field of all fields, from the structs themselves."""
    return fields_in(types.type_info(Config), "")


# One value of the right type that cannot be, and one of a wrong type, for every field.
BAD = {
    "node.listen": (
        [],
        "10.0.0.1",
        ["example.org"],
        ["10.0.0.1:0"],
        ["fe80::1"],
        ["239.1.1.1"],
        ["[::1"],
        [":5348"],
        [1],
    ),
    "node.bootstrap": (["a b"], ["host:70000"], [""], ["x" * 300], 7),
    "node.id": ("", "even", "ab" * 19, "xy" * 20, "00" * 20, 5),
    "node.data_dir": ("relative", "", 1),
    "node.advertise": (["10.0.0.1:5348"], ["0.0.0.0"], ["host"], True),
    "node.anycast": (["::"], ["10.0.0.256"], "10.0.0.1"),
    "node.freebind": ("yes", 1),
    "node.lame_duck": (-1, 3601, "10", True),
    "node.cookies": ("yes", 1),
    "node.hop_limit": (0, 256, "16"),
    "node.bucket_size": (0, 21, "20"),
    "node.replay_window": (0, 3601, 1.5),
    "key.epoch": (-1, 256, "0"),
    "key.file": ("secret", 5),
    "key.secret": ("too short", 5),
    "access.writes": ("closed", True),
    "access.reads": ("", 1),
    "access.open_scopes": ([""], ["a\nb"], ["x" * 65], "scratch"),
    "access.revoked": ([""], ["0" * 16], [7], "ci-1"),
    "access.from": (
        ["10.0.0.1/8"],
        ["example.org"],
        ["10.0.0.0/33"],
        ["::ffff:10.0.0.0/104"],
        "10.0.0.0/8",
        [1],
    ),
    "access.not_from": ([""], ["10.0.0.0/8"] * 64, {}),
    "access.write_from": (["fd00::1/64"], 7),
    "access.write_not_from": (["*"], "fd00::/64"),
    "access.write_cookie": ("yes", 1),
    "access.key.epoch": (-1, 256, "0"),
    "access.key.file": ("secret", 5),
    "access.key.secret": ("too short", 5),
    "node.discover": (1, "yes"),
    "datapath.kind": ("ebpf2", 1),
    "datapath.interfaces": (["lo"], ["a" * 16], ["a b"], [""], "eth0"),
    "datapath.queues": (0, 17, "1"),
    "datapath.first_queue": (-1, 65520, None),
    "datapath.queue_length": (0, 65537, True),
    "datapath.table": ("a b", "1a", "", "x" * 33, 1),
    "datapath.ebpf_keep": (1, "yes"),
    "datapath.rate": (-1, 10_000_001, "fast"),
    "datapath.write_rate": (-1, 10_000_001, "fast"),
    "storage.sweep_interval": (0, 86401, []),
    "storage.cache": (-1, 4097, "4M"),
    "storage.write_buffer": (1, 257, "16M"),
    "replication.replicas": (0, 17, "three"),
    "replication.write": ("two", 2, ""),
    "replication.repair_rate": (9, 100_001, "fast"),
    "replication.tombstone_ttl": (59, 31_536_001, "1d"),
    "storage.max_waiting": (0, 1_000_001, {}),
    "storage.quota": (-1, (1 << 30) + 1, "1G"),
    "storage.quota_records": (-1, (1 << 40) + 1, 0.5),
    "storage.writer_quota": (-1, (1 << 30) + 1, "1G"),
    "storage.writer_quota_records": (-1, (1 << 40) + 1, 0.5),
    "storage.max_ttl": (-1, 2**32, "1d"),
    "storage.min_free": (-1, (1 << 30) + 1, "1G"),
    "control.socket": ("kdhtd.sock", "/" + "x" * 107, 1),
    "control.group": ("", 0),
    "metrics.listen": ("127.0.0.1", "localhost:9548", "127.0.0.1:0", ":9548", "fe80::1", 9548),
    "metrics.names": (["a:1"], [""], ["x" * 254], "n1", [1], ["a"] * 17),
    "web.listen": ("127.0.0.1", "10.0.0.1:5380", "0.0.0.0:5380", "[::1]", 1),
    "web.remote": ("yes", 1),
    "dns.listen": (["127.0.0.1"], ["localhost:53"], ["127.0.0.1:0"], "127.0.0.1:53", ["127.0.0.1:1"] * 17),
    "dns.zone": ("", "a..b", "a b", "x" * 64, 1),
    "dns.ttl": (-1, 86401, "5s"),
    "dns.negative_ttl": (-1, 3601, "5s"),
    "dns.nameservers": ("ns.example.", ["a..b"], ["ns.example."] * 14),
    "dns.scope": ("", "x" * 65, 1),
    "dns.unproven_rate": (-1, 10_000_001, "fast"),
    "dns.rate": (-1, 10_000_001, "fast"),
    "dns.token_file": ("token", 1),
    "http.listen": (["127.0.0.1"], ["::1"], "127.0.0.1:80"),
    "http.tls_certificate": ("cert.pem", 1),
    "http.tls_key": ("key.pem", 1),
    "http.rate": (-1, 10_000_001, "fast"),
    "http.connections": (0, 65537, "many"),
    "http.connections_per_client": (0, 65537, None),
    "http.names": (["a:1"], [""], ["x" * 254], "n1", [1], ["a"] * 65),
    "http.cors": (
        ["app.example.org"],
        ["https://app.example.org/"],
        ["https://A.example"],
        "*",
        ["ftp://a"],
        ["*"] * 65,
    ),
    "tracker.listen": (["127.0.0.1"], ["224.0.0.1:6969"], 6969),
    "tracker.interval": (59, 28801, "15m"),
    "tracker.scope": ("", "x" * 65, 1),
    "tracker.rate": (-1, 10_000_001, "fast"),
    "tracker.token_file": ("token", 1),
    "log.level": ("verbose", 1),
    "log.format": ("xml", None),
}


def test_the_table_of_bad_values_has_every_field():
    assert sorted(BAD) == sorted(every_field())


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, values in BAD.items() for value in values]
)
def test_a_bad_field_gives_one_line_with_its_name_and_value(path, value):
    with pytest.raises(ConfigError) as caught:
        build(with_field(path, value), name="file.toml")
    line = str(caught.value)
    table, _, name = path.rpartition(".")
    assert "\n" not in line
    assert line.startswith("file.toml: ")
    assert f"{table}[0].{name}" in line or f"{table}.{name}" in line
    assert ":" in line.split(name, 1)[1], "says nothing of what is allowed"


@pytest.mark.parametrize("path", every_field())
def test_an_unknown_field_beside_every_field_is_refused(path):
    table, _, name = path.rpartition(".")
    data = with_field(f"{table}.{name}x", 1)
    with pytest.raises(ConfigError, match=rf"{table}(\[0\])?\.{name}x is unknown; known here: .*{name}"):
        build(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "node is missing"),
        ({"node": {}}, "node.listen is missing: expected a list of 1 to 8"),
        ({"node": {"listen": ["::1"]}}, "key is missing"),
        ({"node": {"listen": ["::1"]}, "key": []}, "key is []: expected a list of 1 to 2"),
        (
            {**GOOD, "access": {"key": [{"secret": SECRET}] * 2}},
            "each access key needs its own epoch",
        ),
        ({**GOOD, "nodes": {}}, "nodes is unknown; known here: node, key"),
        ({**GOOD, "log": 3}, "log is 3: expected a table with level, format"),
        (
            {**GOOD, "web": {"listen": "10.0.0.1:80"}},
            "web.listen is 10.0.0.1:80, which is not loopback: set web.remote",
        ),
        ({**GOOD, "http": {"tls_key": "/k"}}, "http.tls_certificate and http.tls_key go together"),
        ({**GOOD, "key": [{}]}, "key[0] is {}: expected either `file` or `secret`"),
        (
            {**GOOD, "replication": {"replicas": 3}, "node": {**GOOD["node"], "bucket_size": 2}},
            "node.bucket_size is 2, fewer than the 3 replicas: set it to 3 or more",
        ),
        ({**GOOD, "key": [{"secret": SECRET}] * 2}, "each key needs its own epoch"),
    ],
)
def test_tables_that_cannot_be(data, words):
    with pytest.raises(ConfigError) as caught:
        build(data)
    assert words in str(caught.value)


def test_no_message_shows_a_secret():
    for data in (with_field("key.secret", "hush"), with_field("key.secret", {"a": "hush"})):
        with pytest.raises(ConfigError) as caught:
            build(data)
        assert "hush" not in str(caught.value)
    both = {**GOOD, "key": [{"secret": "hush" * 4, "file": "/x"}]}
    with pytest.raises(ConfigError) as caught:
        build(both)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[node", "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (1 << 20) + b"\n", "larger than"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, raw, words):
    path = tmp_path / "kdhtd.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=words):
        load(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)


def test_the_example_is_the_documented_file_and_valid(tmp_path):
    text = example()
    assert (ROOT / "docs/kdhtd.toml").read_text() == text, "write it anew: kdhtd --example > docs/kdhtd.toml"
    assert build(tomllib.loads(text)).node.listen == ["10.0.0.1"]


PYTHON_NAMES = {"from": "from_"}
"""Of fields whose name in TOML is a word of Python."""


def at(config: object, path: str) -> object:
    """The value in a Config, or in plain data; of a list of tables the first."""
    for step in path.split("."):
        config = config[step] if isinstance(config, dict) else getattr(config, PYTHON_NAMES.get(step, step))
        config = config[0] if step == "key" else config
    return config


def paths_in(data: dict, above: str = "") -> set[str]:
    found = set()
    for name, value in data.items():
        table = value[0] if name == "key" else value
        found |= paths_in(table, f"{above}{name}.") if isinstance(table, dict) else {f"{above}{name}"}
    return found


def test_the_example_has_every_field_with_its_default():
    """Uncommented field by field, the file still says what the defaults are."""
    plain_config = build({**GOOD, "access": {"key": [{"secret": SECRET}]}})
    lines = [
        line.lstrip("#")
        for line in example().splitlines()
        if line[:1] == "[" or (line[:1] == "#" and " = " in line and line[1] != " ")
    ]
    uncommented = tomllib.loads("\n".join(lines))
    spoken = {"node.listen", "key.file", "access.writes", "access.key.file"}
    named = paths_in(uncommented)
    assert named == set(every_field()) - spoken
    for path in named - {"key.secret", "access.key.secret"}:
        if default := at(plain_config, path):
            assert at(uncommented, path) == default, path


def test_overrides_lie_over_the_file():
    config = build(GOOD, {"node": {"listen": ["127.0.0.9"]}, "log": {"level": "debug"}})
    assert (config.node.listen, config.log.level) == (["127.0.0.9"], "debug")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("host", ("host", 5348)),
        ("host:1", ("host", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("fd00::1", ("fd00::1", 5348)),
        ("[fd00::1]", ("fd00::1", 5348)),
        ("[fd00::1]:9", ("fd00::1", 9)),
    ],
)
def test_host_and_port(text, parts):
    assert split_port(text) == parts
    assert (HostPort(text).host, HostPort(text).port) == parts


@pytest.mark.parametrize(
    "text", ["", ":", ":1", "h:", "h:x", "h:65536", "h:-1", "h:٣", "[::1", "[::1]x:2", "[]:1", "::1]:5"]
)
def test_invalid_hosts_and_ports_are_refused(text):
    with pytest.raises(ValueError, match=r"\S"):
        HostPort(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("fd53:48::2:5348", "[fd53:48::2]:5348 or [fd53:48::2:5348]"),
        ("fd53::5348", "[fd53::]:5348 or [fd53::5348]"),
    ],
)
def test_a_port_behind_an_ipv6_address_needs_brackets(text, meant):
    with pytest.raises(ValueError, match=re.escape(f"write {meant}")):
        HostPort(text)
    # A group of an address that nobody takes for a port.
    assert split_port("fd53::2:534a") == ("fd53::2:534a", 5348)
    assert split_port("fd53::2") == ("fd53::2", 5348)


ACCESS = {"key": [{"secret": "another one of sixteen bytes"}]}


def settings(**node: object):
    data = {"node": {"listen": ["10.0.0.1"], **node}, "key": [{"secret": SECRET}], "access": ACCESS}
    return resolve(build(data))


def accessed(listen: str, **access: object):
    """The settings of a node with this [access]."""
    return resolve(build({"node": {"listen": [listen]}, "key": [{"secret": SECRET}], "access": access}))


@pytest.mark.parametrize(
    ("listen", "access", "writes"),
    [
        ("127.0.0.1", {}, "open"),
        ("::1", {}, "open"),
        ("127.0.0.1", ACCESS, "token"),
        ("10.0.0.1", ACCESS, "token"),
        ("fd00::1", ACCESS, "token"),
        ("10.0.0.1", {"writes": "open"}, "open"),
        ("10.0.0.1", {"writes": "count", **ACCESS}, "count"),
    ],
)
def test_a_node_is_closed_to_writers_unless_told_or_private(listen, access, writes):
    assert accessed(listen, **access).access.writes == writes


@pytest.mark.parametrize(
    ("listen", "access", "field"),
    [
        ("10.0.0.1", {}, "writes"),
        ("127.0.0.1", {"writes": "token"}, "writes"),
        ("127.0.0.1", {"writes": "count"}, "writes"),
        ("10.0.0.1", {"writes": "open", "reads": "token"}, "reads"),
    ],
)
def test_tokens_without_a_secret_to_check_them_are_refused(listen, access, field):
    with pytest.raises(ConfigError, match=rf"access\.{field} asks for tokens, and no \[\[access\.key\]\]"):
        accessed(listen, **access)


def test_an_anycast_address_makes_a_loopback_node_public():
    data = {"node": {"listen": ["127.0.0.1"], "anycast": ["10.9.9.9"]}, "key": [{"secret": SECRET}]}
    with pytest.raises(ConfigError, match="asks for tokens"):
        resolve(build(data))


@pytest.mark.parametrize(("listen", "warned"), [("10.0.0.1", 1), ("127.0.0.1", 0)])
@pytest.mark.parametrize("writes", ["open", "count"])
def test_open_writes_are_warned_of_unless_on_loopback(listen, warned, writes):
    warnings = accessed(listen, writes=writes, **ACCESS).warnings
    assert [f'access.writes is "{writes}": everybody' in line for line in warnings] == [True] * warned


def test_scopes_and_holders_are_numbers_in_the_settings():
    got = accessed("10.0.0.1", open_scopes=["billing"], revoked=["0102030405060708", "ci-1"], **ACCESS).access
    assert got.open_scopes == {0xCC353D850F0AE82B}
    assert 0x0102030405060708 in got.revoked
    assert len(got.revoked) == 2


def test_addresses_of_a_plain_node():
    got = settings(listen=["10.0.0.1:7", "[fd00::1]:7"])
    assert got.listen == got.own == got.unicast == (Address.of("10.0.0.1", 7), Address.of("fd00::1", 7))
    assert got.usual(ipv4=False) == Address.of("fd00::1", 7)


def test_addresses_with_anycast_and_a_wildcard():
    got = settings(listen=["0.0.0.0"], advertise=["10.0.0.1", "10.0.1.1"], anycast=["10.9.9.9", "fd00::9"])
    assert [a.host for a in got.listen] == ["0.0.0.0", "fd00::9"]
    assert [a.host for a in got.own] == ["10.0.0.1", "10.0.1.1", "10.9.9.9", "fd00::9"]
    assert got.usual(ipv4=False) is None


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"listen": ["10.0.0.1:1", "10.0.0.2:2"]}, "one port"),
        ({"listen": ["0.0.0.0"]}, "node.advertise must name"),
        ({"advertise": ["10.0.0.1"]}, "goes with a wildcard"),
        ({"anycast": ["10.0.0.1"]}, "this node's own address"),
        ({"anycast": [f"10.0.1.{n}" for n in range(8)]}, "at most 8"),
    ],
)
def test_addresses_that_do_not_fit_together(node, words):
    with pytest.raises(ConfigError, match=words):
        settings(**node)


def key_file(path: Path, data: bytes, mode: int = 0o600):
    path.write_bytes(data)
    path.chmod(mode)
    return resolve(build({"node": {"listen": ["127.0.0.1"]}, "key": [{"file": str(path)}]}))


def test_a_secret_from_a_file(tmp_path):
    got = key_file(tmp_path / "secret", SECRET.encode() + b"\n")
    assert got.keys == settings().keys
    assert not got.warnings


def test_a_secret_that_others_can_read_is_warned_of(tmp_path):
    (warning,) = key_file(tmp_path / "secret", SECRET.encode(), mode=0o644).warnings
    assert "chmod 600" in warning


@pytest.mark.parametrize(("data", "words"), [(b"short\n", "at least 16 bytes"), (b"x" * 5000, "larger than")])
def test_secret_files_that_hold_none(tmp_path, data, words):
    with pytest.raises(ConfigError, match=rf"key\[0\]\.file is .*{words}"):
        key_file(tmp_path / "secret", data)


def test_a_secret_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"key\[0\]\.file is .*No such file"):
        resolve(build({"node": {"listen": ["10.0.0.1"]}, "key": [{"file": str(tmp_path / "none")}]}))


def test_dev_nodes_have_data_and_sockets_of_their_own(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    one, two = dev.config({}), dev.config({"node": {"listen": ["127.0.0.2:99"]}})
    assert one.node.data_dir == "/state/kdht/dev-127.0.0.1-5348"
    assert two.control.socket == "/state/kdht/dev-127.0.0.2-99/control.sock"
    assert one.datapath.kind == "socket"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"node": {"listen": ["10.0.0.1"]}}, "loopback only"),
        ({"node": {"listen": ["0.0.0.0"]}}, "loopback only"),
        ({"node": {"listen": ["nonsense"]}}, "not a numeric"),
        ({"datapath": {"kind": "nfqueue"}}, "socket datapath only"),
    ],
)
def test_dev_refuses_contradictory_options(overrides, words):
    with pytest.raises(ConfigError, match=words):
        dev.config(overrides)


def toml(data: dict, above: str = "") -> str:
    """Plain data as TOML; a list of tables where the configuration has one."""
    lines = []
    for table, content in data.items():
        is_list = isinstance(content, list)
        for fields in content if is_list else [content]:
            lines.append(f"[[{above}{table}]]" if is_list else f"[{above}{table}]")
            own = {name: value for name, value in fields.items() if name != "key"}
            lines += [f"{name} = {json.dumps(value)}" for name, value in own.items()]
            lines.append(toml({"key": fields["key"]}, f"{above}{table}.") if "key" in fields else "")
    return "\n".join(lines)


@pytest.mark.parametrize("mode", [[], ["--check"]])
@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path, values in BAD.items() for value in values if value is not None],
)
def test_kdhtd_refuses_a_bad_value_in_every_field(tmp_path, monkeypatch, capsys, path, value, mode):
    """The program itself, in this process; None is nothing that TOML can say."""
    file = tmp_path / "kdhtd.toml"
    file.write_text(toml(with_field(path, value)))
    monkeypatch.setattr(sys, "argv", ["kdhtd", "--config", str(file), *mode])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"kdhtd: {file}: ")
    assert path.rpartition(".")[2] in said.err


def test_kdhtd_says_it_in_one_line(tmp_path):
    path = tmp_path / "kdhtd.toml"
    path.write_text('[node]\nlisten = ["10.0.0.1"]\nhop_limit = 0\n')
    done = subprocess.run(
        [sys.executable, "-m", "kdht.daemon.main", "--check", "--config", path],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr == f"kdhtd: {path}: node.hop_limit is 0: expected a whole number from 1 to 255\n"
    assert done.stdout == ""


def at_home(listen: list[str], **tables: dict) -> tuple[str, ...]:
    """The warnings of a configuration whose node listens there."""
    data = {"node": {"listen": listen}, "key": [{"secret": SECRET}], **tables}
    data["access"] = {**tables.get("access", {}), **ACCESS}
    return resolve(build(data)).warnings


HTTP = {"listen": ["10.0.0.1:5381"]}


@pytest.mark.parametrize(
    ("lists", "faces", "warning"),
    [
        ({"from": ["10.1.0.0/16"]}, {"http": HTTP},
         '[access] refuses this node\'s own address 10.0.0.1, and so [http] and kdhtctl on this host: add "10.0.0.1" to access.from'),
        ({"from": ["10.1.0.0/16"]}, {},
         '[access] refuses this node\'s own address 10.0.0.1, and so kdhtctl on this host: add "10.0.0.1" to access.from'),
        ({"from": ["10.0.0.0/8"], "not_from": ["10.0.0.0/24"]}, {},
         "[access] refuses this node's own address 10.0.0.1, and so kdhtctl on this host: take 10.0.0.0/24 out of access.not_from"),
        ({"write_from": ["10.1.0.0/16"]}, {"http": HTTP, "dns": {"listen": ["10.0.0.1:53"]}},
         "[access] refuses writes of this node's own address 10.0.0.1, and so [http] and kdhtctl on this host: "
         'add "10.0.0.1" to access.write_from'),
        ({"from": ["10.1.0.0/16"], "write_from": ["10.1.0.0/16"]}, {},
         "[access] refuses this node's own address 10.0.0.1, and so kdhtctl on this host: "
         'add "10.0.0.1" to access.from and add "10.0.0.1" to access.write_from'),
    ],
)  # fmt: skip
def test_lists_that_refuse_the_node_itself_are_warned_about(lists, faces, warning):
    assert at_home(["10.0.0.1"], access=lists, **faces) == (warning,)


@pytest.mark.parametrize("lists", [{}, {"from": ["10.0.0.0/8"]}, {"not_from": ["10.1.0.0/16"]}])
def test_lists_that_let_the_node_in_are_not_warned_about(lists):
    assert at_home(["10.0.0.1"], access=lists, http=HTTP) == ()


def test_each_own_address_that_is_refused_has_a_warning():
    first, second = at_home(["10.0.0.1", "fd00::1"], access={"from": ["10.1.0.0/16"]})
    assert 'add "10.0.0.1" to access.from' in first
    assert 'add "fd00::1" to access.from' in second
