"""config, key, storage, completion: what is done to files, and to a running daemon beside them."""

import base64
import json
import os
import random
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import plyvel
import pytest
from ctl import Ctl, bad, complained, good
from daemons import KDHTCTL, DevNode, free_port, nobody, open_to_all
from paths import ROOT

from kdht.client import Client
from kdht.config.example import example
from kdht.errors import KdhtError
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.program import control_client

LISTEN = f"127.0.0.1:{free_port('127.0.0.1')}"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Outside of pytest's directories, which every other run of pytest closes to other users again."""
    with tempfile.TemporaryDirectory(prefix="kdht-test-") as directory:
        yield Path(directory)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A configuration with its secret."""
    (tmp_path / "old").write_text("an old secret, of enough bytes\n")
    (tmp_path / "old").chmod(0o600)
    (tmp_path / "kdhtd.toml").write_text(
        f"""# My node: this comment stays.
[node]
listen = ["{LISTEN}"]  # and this
data_dir = "{tmp_path}/data"

[[key]]
epoch = 255
file = "{tmp_path}/old"

[datapath]
kind = "socket"

[control]
socket = "{tmp_path}/control.sock"
"""
    )
    return tmp_path


@pytest.fixture
def ctl(home: Path) -> Ctl:
    return Ctl(home / "control.sock", KDHT_CONFIG=str(home / "kdhtd.toml"))


@pytest.fixture
def running(home: Path) -> Iterator[DevNode]:
    node = DevNode(home, LISTEN, config=home / "kdhtd.toml").wait_ready()
    yield node
    node.close()


# --- config


def test_config_check(ctl, home):
    found = ctl.json("config", "check")
    assert f"listens on {LISTEN}" in found["findings"]
    assert found["problems"] == found["warnings"] == []
    assert b"can work here" in good(ctl("config", "check"))
    assert not (home / "data").exists()


def test_the_nodes_own_address_that_the_lists_refuse_is_named_before_the_start_and_by_doctor(ctl, home):
    with (home / "kdhtd.toml").open("a") as file:
        file.write(
            f'[access]\nwrites = "open"\nfrom = ["10.0.0.0/8"]\n[http]\nlisten = ["{LISTEN.partition(":")[0]}:5999"]\n'
        )
    why = "refuses this node's own address"
    add = f'add "{LISTEN.partition(":")[0]}" to access.from'
    (warning,) = ctl.json("config", "check")["warnings"]
    assert why in warning
    assert warning.endswith(add)
    found = json.loads(ctl("doctor", "--json").stdout)["findings"]
    (finding,) = [each for each in found if why in each["what"]]
    assert (finding["state"], finding["mend"]) == ("warning", add)


def test_config_check_ends_as_a_start_would(ctl, home):
    (home / "data").write_text("a file where the directory should be")
    done = ctl("config", "check", "--json")
    assert done.returncode == 3
    assert "not a directory" in json.loads(done.stdout)["problems"][0]["error"]
    bad(ctl("config", "check", "--config", home / "none"), 2, "No such file")
    (home / "kdhtd.toml").write_text("[node]\nlisten = 3\n")
    bad(ctl("config", "show"), 2, "node.listen")


def test_config_show_is_a_configuration_and_hides_secrets(ctl, home):
    shown = good(ctl("config", "show")).decode()
    (home / "again.toml").write_text(shown)
    assert ctl.json("config", "show") == ctl.json("config", "show", "--config", home / "again.toml")
    text = (
        (home / "kdhtd.toml").read_text().replace(f'file = "{home}/old"', 'secret = "sixteen bytes or more"')
    )
    (home / "kdhtd.toml").write_text(text)
    for shown in (good(ctl("config", "show")), good(ctl("config", "show", "--json"))):
        assert b"sixteen" not in shown
        assert b"hidden" in shown


def test_config_example(ctl, home):
    assert good(ctl("config", "example")).decode() == example()


# --- key


def epochs(ctl: Ctl) -> list[int]:
    return list(ctl.json("status")["key_epochs"])


def test_a_new_secret_is_its_owners_alone_and_replaces_nothing(ctl, home):
    assert ctl.json("key", "new", home / "new") == {"file": str(home / "new")}
    secret = (home / "new").read_bytes()
    assert len(base64.b64decode(secret)) == 32
    assert stat.S_IMODE((home / "new").stat().st_mode) == 0o600
    bad(ctl("key", "new", home / "new"), 2, "already exists")
    assert (home / "new").read_bytes() == secret
    bad(ctl("key", "new", home / "none" / "new"), 2, "No such file")


def test_the_three_stages_while_the_node_serves(ctl, home, running):
    good(ctl("key", "new", home / "new"))
    (home / "kdhtd.toml").chmod(0o640)
    with Client(LISTEN, timeout=2) as client:
        for stage, expected in (("accept", [255, 0]), ("sign", [0, 255]), ("retire", [0])):
            extra = ["--file", home / "new"] if stage == "accept" else []
            done = ctl.json("key", "rotate", "--stage", stage, *extra)
            assert (done["changed"], done["reloaded"], done["epochs"]) == (True, True, expected)
            assert epochs(ctl) == expected
            client.put(stage, b"v")
            again = ctl.json("key", "rotate", "--stage", stage, *extra)
            assert (again["changed"], again["epochs"]) == (False, expected)
        assert client.get("accept") == b"v"
    text = (home / "kdhtd.toml").read_text()
    assert "# My node: this comment stays.\n" in text
    assert "# and this" in text
    assert str(home / "old") not in text
    assert stat.S_IMODE((home / "kdhtd.toml").stat().st_mode) == 0o640
    assert running.end()[0] == 0


def test_a_cluster_changes_its_key_under_load(tmp_path):
    """Stage by stage on all nodes, while values are put and got through all of them: no request fails."""
    with Cluster(places_on_loopback(3), tmp_path, datapath="socket") as cluster:
        good(Ctl(tmp_path)("key", "new", tmp_path / "new"))
        ended = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            load = threads.submit(put_and_get, [str(node.address) for node in cluster.nodes], ended)
            try:
                for stage in ("accept", "sign", "retire"):
                    for node in cluster.nodes:
                        ctl = Ctl(node.control, KDHT_CONFIG=str(node.control.parent / "kdhtd.toml"))
                        extra = ["--file", tmp_path / "new"] if stage == "accept" else []
                        good(ctl("key", "rotate", "--stage", stage, *extra))
            finally:
                ended.set()
            assert load.result(60) > 10
        assert [node.status()["key_epochs"] for node in cluster.nodes] == [[2]] * 3
        packets = [node.stats()["packets"]["all"] for node in cluster.nodes]
        assert sum(each["BAD_EPOCH"] + each["BAD_TAG"] for each in packets) == 0


def put_and_get(nodes: list[str], ended: threading.Event) -> int:
    """Until it ends: how many values came back. Raises for one that did not."""
    count = 0
    with Client(nodes, timeout=10) as one, Client(nodes[::-1], timeout=10) as other:
        while not ended.is_set():
            one.put(f"loaded {count % 20}", str(count).encode())
            assert other.get(f"loaded {count % 20}", quorum=True) == str(count).encode()
            count += 1
            ended.wait(0.005)  # the nodes shall serve, not be busy all the time
    return count


def test_without_a_daemon_it_waits_for_the_next_start(ctl, home):
    good(ctl("key", "new", home / "new"))
    done = ctl.json("key", "rotate", "--stage", "accept", "--file", home / "new")
    assert (done["changed"], done["reloaded"]) == (True, False)
    assert b"when the daemon starts" in good(ctl("key", "rotate", "--stage", "sign"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stage", "sign"], "accept the new one first"),
        (["--stage", "accept"], "--file goes with --stage accept"),
        (["--stage", "sign", "--epoch", "3"], "--epoch with it"),
        (["--stage", "accept", "--file", "none"], "No such file"),
        (["--stage", "accept", "--file", "short"], "at least 16 bytes"),
        (["--stage", "accept", "--file", "new", "--epoch", "255"], "not newer"),
        (["--stage", "accept", "--file", "new", "--epoch", "254"], "not newer"),
        (["--stage", "later"], "'later' is not one of"),
    ],
)
def test_a_stage_that_does_not_fit_changes_nothing(ctl, home, arguments, words):
    good(ctl("key", "new", home / "new"))
    (home / "short").write_text("short")
    before = (home / "kdhtd.toml").read_text()
    bad(ctl("key", "rotate", *arguments, cwd=home), 2, words)
    assert (home / "kdhtd.toml").read_text() == before
    assert sorted(each.name for each in home.iterdir()) == ["kdhtd.toml", "new", "old", "short"]


def test_the_old_key_does_not_go_before_the_new_one_signs(ctl, home):
    good(ctl("key", "new", home / "new"))
    good(ctl("key", "rotate", "--stage", "accept", "--file", home / "new"))
    bad(ctl("key", "rotate", "--stage", "retire"), 2, "still signs with the old key")
    good(ctl("key", "new", home / "newer"))
    bad(ctl("key", "rotate", "--stage", "accept", "--file", home / "newer"), 2, "2 keys already")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's socket needs two users")
def test_a_daemon_that_may_not_be_told_keeps_its_configuration(ctl, home, running):
    """The file is this user's, the daemon is root's: nothing half done."""
    good(ctl("key", "new", home / "new"))
    open_to_all(home)
    for each in ("kdhtd.toml", "new", "old"):
        os.chown(home / each, 65534, 65534)
    before = (home / "kdhtd.toml").read_text()
    command = [*nobody(), "env", f"KDHT_SOCKET={home}/control.sock", f"KDHT_CONFIG={home}/kdhtd.toml"]
    done = subprocess.run(
        [*command, *KDHTCTL, "key", "rotate", "--stage", "accept", "--file", str(home / "new")],
        capture_output=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    bad(done, 5, "permission denied")
    assert (home / "kdhtd.toml").read_text() == before
    assert epochs(ctl) == [255]


def test_a_configuration_that_the_daemon_refuses_is_told(running, home):
    """`reload` answers what SIGHUP could only log."""
    (home / "kdhtd.toml").write_text("no toml")
    with pytest.raises(KdhtError, match=r"refused reload: .*not valid TOML"):
        control_client.call(home / "control.sock", "reload")
    assert running.call("status")["state"] == "running"


# --- storage


def test_storage_of_a_running_node(ctl, home, running):
    with Client(LISTEN) as client:
        for number in range(1500):
            client.put(f"k{number}", b"v" * 20)
    stats = ctl.json("storage", "stats")
    assert (stats["records"], stats["value_bytes"]) == (1500, 30000)
    assert "records" in good(ctl("storage", "stats")).decode()
    assert ctl.json("storage", "export", home / "out") == {"file": str(home / "out"), "records": 1500}
    lines = (home / "out").read_text().splitlines()
    assert json.loads(lines[0]) == {"kdht": "records", "format": 1}
    assert json.loads(lines[-1]) == {"records": 1500}
    keys = [json.loads(line)["key"] for line in lines[1:-1]]
    assert keys == sorted(set(keys))


def overwritten(count: int = 100, times: int = 20) -> dict[str, bytes]:
    """Values that were written again and again, of which the last ones stay."""
    with Client(LISTEN) as client:
        for number in range(times):
            rng = random.Random(number)  # LevelDB would make little of values that are all alike
            values = {f"k{n}": rng.randbytes(500) for n in range(count)}
            client.put_many(values)
    return values


def test_compaction_of_a_running_node_gives_the_disk_back(ctl, running):
    values = overwritten()
    found = ctl.json("storage", "compact")
    assert found["before"] > 20 * 100 * 500
    assert found["after"] < found["before"] / 5
    with Client(LISTEN) as client:
        assert client.get_many(values) == values


def test_compaction_of_a_stopped_node_gives_the_disk_back(ctl, home, running):
    overwritten()
    assert running.end()[0] == 0
    found = ctl.json("storage", "compact", "-d", home / "data")
    assert found["before"] > 20 * 100 * 500
    assert found["after"] < found["before"] / 5
    assert ctl.json("storage", "check", "-d", home / "data")["records"] == 100


def test_a_running_nodes_directory_is_refused(ctl, home, running):
    for command in (["check"], ["stats"], ["compact"], ["export", home / "out"], ["import", home / "none"]):
        done = ctl("storage", *command, "--data-dir", home / "data")
        bad(done, 2 if command[0] == "import" else 3, "" if command[0] == "import" else "a daemon (process")
    assert not (home / "out").exists()


@pytest.fixture
def stopped(home: Path, running: DevNode) -> Path:
    """The data directory of a node that served and stopped."""
    with Client(LISTEN) as client:
        client.put("plain", b"1")
        client.put("with a ttl", b"22", ttl=3600)
        client.put("deleted", b"333")
        client.delete("deleted")
    assert running.end()[0] == 0
    return home / "data"


def test_storage_of_a_stopped_node(ctl, home, stopped):
    stats = ctl.json("storage", "stats", "-d", stopped)
    assert (stats["records"], stats["tombstones"]) == (2, 1)
    found = ctl.json("storage", "check", "-d", stopped)
    assert (found["records"], found["tombstones"], found["value_bytes"], found["with_expiry"]) == (2, 1, 3, 2)
    assert found["problems"] == []
    assert ctl.json("storage", "export", home / "a", "-d", stopped)["records"] == 3
    assert ctl.json("storage", "import", home / "a", "-d", home / "copy") == {
        "file": str(home / "a"), "records": 3, "newest": 3,
    }  # fmt: skip
    good(ctl("storage", "export", home / "b", "-d", home / "copy"))
    assert (home / "a").read_bytes() == (home / "b").read_bytes()
    good(ctl("storage", "import", home / "a", "-d", home / "copy"))
    good(ctl("storage", "check", "-d", home / "copy"))
    assert b"on disk" in good(ctl("storage", "compact", "-d", home / "copy"))


def test_an_older_record_is_replaced(ctl, home, stopped):
    good(ctl("storage", "export", home / "a", "-d", stopped))
    older = [json.loads(line) for line in (home / "a").read_text().splitlines()]
    for line in older[1:-1]:
        line["version"] -= 1
    (home / "older").write_text("".join(json.dumps(line) + "\n" for line in older))
    assert ctl.json("storage", "import", home / "older", "-d", stopped)["newest"] == 0
    assert b"3 gave way" in good(ctl("storage", "import", home / "older", "-d", stopped))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[1:], "holds no exported records"),
        (lambda lines: lines[:-1], "was cut short after 3 records"),
        (lambda lines: [*lines[:2], lines[2][:30]], "line 3"),
        (lambda lines: [*lines[:2], lines[-1]], "line 3: the file should end after 3 records, and has 1"),
        (lambda lines: [*lines, lines[1]], "or more: export it again"),
        (lambda lines: [lines[0].replace("1", "9"), *lines[1:]], "of format 9"),
        (lambda lines: [lines[0], lines[1].replace('"key":"', '"key":"zz'), *lines[2:]], "line 2"),
        (
            lambda lines: [
                lines[0],
                re.sub('"version":[0-9]+', f'"version":{2**64 - 1}', lines[1]),
                *lines[2:],
            ],
            "beyond this",
        ),
        (
            lambda lines: [lines[0], re.sub('"version":[0-9]+', f'"version":{10**30}', lines[1]), *lines[2:]],
            "line 2",
        ),
        (lambda lines: [lines[0], re.sub('"version":[0-9]+', '"version":0', lines[1]), *lines[2:]], "line 2"),
        (
            lambda lines: [lines[0], re.sub('"expiry":[0-9]+', f'"expiry":{2**32}', lines[1]), *lines[2:]],
            "`expiry`",
        ),
        (lambda lines: [lines[0], re.sub('"flags":[0-9]+', '"flags":4', lines[1]), *lines[2:]], "BAD_FLAGS"),
        (lambda lines: [], "holds no exported records"),
    ],
)
def test_nothing_of_a_bad_export_is_imported(ctl, home, stopped, change, words):
    good(ctl("storage", "export", home / "a", "-d", stopped))
    lines = change((home / "a").read_text().splitlines())
    (home / "bad").write_text("".join(f"{line}\n" for line in lines))
    bad(ctl("storage", "import", home / "bad", "-d", home / "new"), 2, words)
    assert not (home / "new").exists()


def test_check_finds_damage(ctl, home, stopped):
    db = plyvel.DB(str(stopped / "records"))
    index = next(db.iterator(start=b"e", stop=b"f", include_value=False))
    db.delete(index)
    db.put(b"unknown", b"")
    db.close()
    done = ctl("storage", "check", "-d", stopped, "--json")
    complained(done.returncode, done.stderr, 3, "2 problems")
    problems = json.loads(done.stdout)["problems"]
    assert any("none of kdht's" in each for each in problems)
    assert any("which will not expire" in each for each in problems)


def test_a_foreign_directory_is_refused(ctl, home):
    (home / "other").mkdir()
    for command in (["check"], ["stats"], ["compact"], ["export", home / "out"]):
        bad(ctl("storage", *command, "-d", home / "other"), 2, "holds no records of a node")
    assert list((home / "other").iterdir()) == []
    assert not (home / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's directory needs two users")
def test_work_as_root_keeps_the_owner_of_the_directory(ctl, home, stopped):
    open_to_all(home)
    for each in (stopped, *stopped.rglob("*")):
        os.chown(each, 65534, 65534)
    good(ctl("storage", "check", "-d", stopped))
    good(ctl("storage", "compact", "-d", stopped))
    assert {each.stat().st_uid for each in (stopped, *stopped.rglob("*"))} == {65534}


# --- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(ctl, shell):
    assert b"_KDHTCTL_COMPLETE" in good(ctl("completion", shell))


def test_each_shell_gets_its_instructions(home):
    words = {"COMP_WORDS": "kdhtctl st", "COMP_CWORD": "1", "_KDHTCTL_COMPLETE": "bash_complete"}
    code = "import sys; from kdht.cli.main import main; sys.argv[0] = 'kdhtctl'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = {line.partition(",")[2] for line in done.stdout.splitlines()}
    assert {"status", "stats", "stop", "storage"} <= told
    assert "table" not in told
