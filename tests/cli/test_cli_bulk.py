"""load and dump: the files, the window, and what is left when either is interrupted or a node is silent."""

import asyncio
import io
import json
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ctl import Ctl, bad, complained, good
from daemons import DevNode, free_port

from kdht.cli import bulk, inflight
from kdht.errors import ConfigError
from kdht.lab.wait import wait_until

SILENT = f"127.0.0.1:{free_port('127.0.0.1')}"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNode]:
    node = DevNode(tmp_path_factory.mktemp("node") / "n1", f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    yield node
    node.close()


@pytest.fixture
def ctl(node: DevNode) -> Ctl:
    return Ctl(node.control)


def write_json_lines(path: Path, values: dict[str, str]) -> Path:
    lines = [json.dumps({"key": key, "value": value}) for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


# --- Files


def random_entries(seed: int, count: int = 300) -> list[bulk.KeyValue]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        value = rng.choice([None, rng.randbytes(rng.randrange(60)), b"text\twith\nall\\", b"", b"\\N"])
        found.append(bulk.KeyValue(f"key {number}\t\\ü", value, rng.choice([None, 1, 2**32 - 1])))
    return found


@pytest.mark.parametrize("form", ["jsonl", "tsv"])
def test_a_dumped_file_can_be_loaded(form):
    entries = random_entries(7)
    file = io.BytesIO(b"".join(bulk.written(entry, form) for entry in entries))
    assert [entry for _, entry in bulk.entries(file, "f", form)] == entries


def test_a_key_of_any_bytes_stands_in_tsv():
    entry = bulk.KeyValue(b"\xff\x00\n", b"v", None)
    assert next(bulk.entries(io.BytesIO(bulk.written(entry, "tsv")), "f", "tsv")) == (1, entry)


def test_a_line_has_its_documented_form():
    """Fixed bytes: files outlive versions."""
    entry = bulk.KeyValue("a", b"x\ty", 60)
    assert bulk.written(entry, "jsonl") == b'{"key":"a","value":"x\\ty","ttl":60}\n'
    assert bulk.written(entry, "tsv") == b"a\tx\\ty\t60\n"
    assert bulk.written(bulk.KeyValue("a", b"\xff", None), "jsonl") == b'{"key":"a","base64":"/w=="}\n'
    assert bulk.written(bulk.KeyValue("a", None, None), "jsonl") == b'{"key":"a","found":false}\n'
    assert bulk.written(bulk.KeyValue("a", None, None), "tsv") == b"a\t\\N\n"


@pytest.mark.parametrize(
    ("form", "line", "words"),
    [
        ("jsonl", b"{", "line 2"),
        ("jsonl", b"[]", "line 2"),
        ("jsonl", b'{"value": "v"}', "missing required field `key`"),
        ("jsonl", b'{"key": "k"}', "the line has neither `value` nor `base64`"),
        ("jsonl", b'{"key": "k", "value": 1}', "Expected `str | null`"),
        ("jsonl", b'{"key": "k", "base64": "!"}', "`base64` is not valid base64"),
        ("jsonl", b'{"key": "k", "value": "v", "ttl": -1}', "a TTL of -1 s"),
        ("jsonl", b'{"key": "k", "value": "' + b"v" * (1 << 20) + b'v"}', "a value of 1048577 bytes"),
        ("jsonl", b'{"key": "\xff", "value": ""}', "line 2"),
        ("tsv", b"lonely", "1 fields"),
        ("tsv", b"a\tb\tc\td", "4 fields"),
        ("tsv", b"a\tb\tsoon", "the TTL is"),
        ("tsv", b"a\tb\\q", "\\q is none of"),
        ("tsv", b"a\tb\\", "is none of"),
    ],
)
def test_a_bad_line_is_named(form, line, words):
    good_line = bulk.written(bulk.KeyValue("k", b"v", None), form)
    with pytest.raises(ConfigError) as caught:
        list(bulk.entries(io.BytesIO(good_line + line + b"\n"), "name", form))
    assert str(caught.value).startswith("name, line 2: ")
    assert words in str(caught.value)


# --- The window


def test_progress_is_the_finished_prefix_in_any_order():
    rng = random.Random(3)
    done: list[int] = []
    prefixes: list[int] = []

    async def work(index: int, thing: int) -> None:
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(0)
        done.append(index)

    def on_prefix(count: int) -> None:
        assert set(range(count)) <= set(done)
        prefixes.append(count)

    asyncio.run(inflight.for_each(range(500), work, window=16, on_prefix=on_prefix))
    assert prefixes == sorted(prefixes)
    assert prefixes[-1] == 500


def test_the_first_failure_ends_all():
    prefixes: list[int] = []

    async def work(index: int, thing: int) -> None:
        await asyncio.sleep(0)
        if index == 40:
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        asyncio.run(inflight.for_each(range(10**9), work, window=8, on_prefix=prefixes.append))
    assert prefixes[-1] <= 40


# --- load and dump


def test_a_value_makes_a_round_trip(ctl, tmp_path):
    values = {f"there {number}": "v" * (number % 50) for number in range(500)}
    source = write_json_lines(tmp_path / "in.jsonl", values)
    loaded = ctl.json("load", source)
    assert (loaded["stored"], loaded["before"]) == (500, 0)
    assert loaded["bytes"] == sum(map(len, values.values()))
    assert not (tmp_path / "in.jsonl.loaded").exists()
    dumped = ctl.json("dump", source, "--output", tmp_path / "out.jsonl")
    assert (dumped["fetched"], dumped["missing"]) == (500, 0)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["key"]: line["value"] for line in lines} == values
    assert list(values) == [line["key"] for line in lines]
    assert not (tmp_path / "out.jsonl.part").exists()


def test_a_value_of_many_datagrams_is_written_and_read(ctl, tmp_path):
    values = {"large one": "x" * 20000, "small one": "y"}
    source = write_json_lines(tmp_path / "in.jsonl", values)
    good(ctl("load", source))
    good(ctl("dump", source, "-o", tmp_path / "out.jsonl"))
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        json.loads(line) for line in source.read_text().splitlines()
    ]


def test_tsv_from_standard_input_and_a_dump_to_standard_output(ctl, tmp_path):
    assert b"stored 2 values" in good(ctl("load", "-", "--format", "tsv", input=b"t1\ta\\tb\nt2\t\n"))
    (tmp_path / "keys").write_text("t1\nt2\n")
    assert good(ctl("dump", tmp_path / "keys", "--format", "tsv")) == b"t1\ta\\tb\nt2\t\n"


def test_a_ttl_of_its_own_and_one_for_all(ctl, tmp_path):
    (tmp_path / "in.tsv").write_bytes(b"own\tv\t100\nother\tv\n")
    good(ctl("load", tmp_path / "in.tsv", "--ttl", "2h"))
    assert 90 < ctl.json("get", "own")["ttl"] <= 100
    assert 7100 < ctl.json("get", "other")["ttl"] <= 7200


def test_missing_keys_are_reported_and_skipped_when_loaded(ctl, tmp_path):
    good(ctl("put", "here", "v"))
    (tmp_path / "keys").write_text("here\nnowhere\n")
    out = tmp_path / "out.jsonl"
    done = ctl("dump", tmp_path / "keys", "-o", out)
    complained(done.returncode, done.stderr, 7, "1 of 2 keys have no value")
    assert [json.loads(line).get("found", True) for line in out.read_text().splitlines()] == [True, False]
    assert ctl.json("load", out)["bytes"] == 1


def test_nothing_of_a_bad_file_is_stored(ctl, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"key": "first of bad", "value": "v"}\n{"key": 3}\n')
    bad(ctl("load", path), 2, f"{path}, line 2")
    bad(ctl("get", "first of bad"), 7)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arguments", [["load", "none"], ["dump", "none", "-o", "out"]])
def test_a_file_that_is_not_there(ctl, tmp_path, arguments):
    bad(ctl(*arguments, cwd=tmp_path), 2, "No such file")
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_does_not_answer(ctl, tmp_path):
    path = write_json_lines(tmp_path / "in.jsonl", {"k": "v"})
    bad(ctl("load", path, "--node", SILENT, "--timeout", "0.3"), 6, "line 1", "0 of 1 entries are stored")
    bad(ctl("dump", path, "-o", tmp_path / "out", "--node", SILENT, "--timeout", "0.3"), 6,
        "0 of 1 values are fetched")  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert ctl.json("load", path)["stored"] == 1


def interrupted(process: subprocess.Popen[bytes]) -> str:
    """Ctrl-C, and what it then says."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out == b""
    complained(process.returncode, err, 130, "interrupted: ", "the same command goes on from there")
    return err.decode()


def test_ctrl_c_in_a_load_and_going_on(ctl, tmp_path):
    values = {f"long {number}": "v" for number in range(20000)}
    path = write_json_lines(tmp_path / "in.jsonl", values)
    state = tmp_path / "in.jsonl.loaded"
    process = ctl.start("load", path, "--window", "1")
    wait_until(state.exists, "the first values to be stored")
    said = interrupted(process)
    done = json.loads(state.read_text())["done"]
    assert f"interrupted: {done} of 20000 entries are stored" in said
    assert 0 < done < 20000
    assert good(ctl("get", f"long {done - 1}")) == b"v"
    rest = ctl.json("load", path, "--window", "256")
    assert (rest["before"], rest["stored"]) == (done, 20000 - done)
    assert good(ctl("get", "long 19999")) == b"v"
    assert not state.exists()


def test_a_changed_file_is_not_continued(ctl, tmp_path):
    path = write_json_lines(tmp_path / "in.jsonl", {"a": "1"})
    state = tmp_path / "in.jsonl.loaded"
    state.write_text('{"digest": "another", "done": 1}')
    bad(ctl("load", path), 2, "the file was changed", "--restart")
    state.write_text("{")
    bad(ctl("load", path), 2, "not a state file")
    assert ctl.json("load", path, "--restart")["stored"] == 1


def test_ctrl_c_in_a_dump_and_going_on(ctl, tmp_path):
    (tmp_path / "keys").write_text("".join(f"absent {number}\n" for number in range(20000)))
    out, part = tmp_path / "out.tsv", tmp_path / "out.tsv.part"
    arguments = ["dump", tmp_path / "keys", "-o", out]
    process = ctl.start(*arguments, "--window", "1")
    wait_until(lambda: part.exists() and part.stat().st_size, "the first values to be written")
    interrupted(process)
    assert not out.exists()
    with part.open("ab") as file:
        file.write(b"half a li")  # as a crash would leave it
    (tmp_path / "other").write_text("others\n" * 5)
    bad(ctl("dump", tmp_path / "other", "-o", out), 2, "belongs to other keys")
    done = ctl(*arguments, "--window", "256", "--json")
    complained(done.returncode, done.stderr, 7, "20000 of 20000 keys have no value")
    data = json.loads(done.stdout)
    assert data["before"] > 0
    assert data["before"] + data["fetched"] == 20000
    assert out.read_text() == "".join(f"absent {number}\t\\N\n" for number in range(20000))
    assert not part.exists()
