"""Every option and argument of every program that names a file: if it is not there, one line says what to do."""

import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from daemons import DevNode, free_port, run
from paths import ROOT
from replay_fixtures import DIRECTORY

from kdht import Client
from kdht.program.options import SocketType

MODULES = {"kdhtd": "kdht.daemon.main", "kdhtctl": "kdht.cli.main", "kdht-faces": "kdht.faces.main", "kdht-replay": "kdht.replay.main"}  # fmt: skip
TABLE = str(DIRECTORY / "right-ipv4/table.json")
TO_MAKE = "none/new: No such file or directory: make the directory none first, or name another"
TO_FIND = "none: No such file or directory: is the name right?"
CONFIG = r"none: No such file or directory: (give the file's name|name the configuration) with --config"
CAPTURE = "none: No such file or directory: name a pcap or pcapng file, or - for standard input"
NO_RECORDS = "none holds no records of a node: name its data directory with --data-dir"
WAYS = {
    "kdhtd --config": ("--config none", CONFIG),
    "kdhtctl put --file": ("put k --file none", TO_FIND),
    "kdhtctl put --sign": ("put k v --sign none", TO_FIND),
    "kdhtctl put --seal": ("put k v --seal none", TO_FIND),
    "kdhtctl get --output": ("get k --output none/new", TO_MAKE),
    "kdhtctl watch --output": ("watch k --output none/new", TO_MAKE),
    "kdhtctl load file": ("load none", TO_FIND),
    "kdhtctl dump keys": ("dump none", TO_FIND),
    "kdhtctl dump --output": ("dump keys --output none/new", TO_MAKE.replace("new", "new.part")),
    "kdhtctl key new file": ("key new none/new", TO_MAKE),
    "kdhtctl key show file": ("key show none", TO_FIND),
    "kdhtctl key rotate --file": ("key rotate --stage accept --file none --config CONFIG", r"No such file.*: \w+"),
    "kdhtctl key rotate --config": ("key rotate --stage sign --config none", CONFIG),
    "kdhtctl token new --secret": ("token new --scope s --secret none", TO_FIND),
    "kdhtctl token new --output": ("token new --scope s --open --output none/new", TO_MAKE),
    "kdhtctl token new --config": ("token new --scope s --config none", CONFIG),
    "kdhtctl token check --config": (f"token check {'kdht1.x'} --config none", r"token|" + CONFIG),
    "kdhtctl token revoke --config": ("token revoke 1 --config none", CONFIG),
    "kdhtctl config check --config": ("config check --config none", CONFIG),
    "kdhtctl config show --config": ("config show --config none", CONFIG),
    "kdhtctl nft show --config": ("nft show --config none", CONFIG),
    "kdhtctl nft diff --config": ("nft diff --config none", CONFIG),
    "kdhtctl nft apply --config": ("nft apply --config none", CONFIG),
    "kdhtctl nft remove --config": ("nft remove --config none", CONFIG),
    "kdhtctl storage check --data-dir": ("storage check --data-dir none", NO_RECORDS),
    "kdhtctl storage check --config": ("storage check --config none", CONFIG),
    "kdhtctl storage stats --data-dir": ("storage stats --data-dir none", NO_RECORDS),
    "kdhtctl storage compact --data-dir": ("storage compact --data-dir none", NO_RECORDS),
    "kdhtctl storage export --data-dir": ("storage export new --data-dir none", NO_RECORDS),
    "kdhtctl storage export file": ("storage export none/new", TO_MAKE),
    "kdhtctl storage import file": ("storage import none --data-dir new", TO_FIND),
    "kdht-faces --config": ("--config none", CONFIG),
    "kdht-replay run capture": (f"run none --table {TABLE}", CAPTURE),
    "kdht-replay run --table": ("run none --table none", "name the table's file with --table"),
    "kdht-replay run --write": (f"run CAPTURE --table {TABLE} --write none/new", TO_MAKE),
    "kdht-replay diff capture": (f"diff none --table {TABLE}", CAPTURE),
    "kdht-replay diff --table": ("diff none --table none", "name the table's file with --table"),
    "kdht-replay check directory": ("check none", "name one that holds fixtures"),
    "kdht-replay record --table": ("record new --interface lo --table none", "name the table's file with --table"),
    "kdht-replay explain --table": ("explain 00 --table none", "name the table's file with --table"),
    "kdht-replay generate capture": (f"generate none/new --table {TABLE}", TO_MAKE),
    "kdht-replay generate --table": ("generate new --table none", "name the table's file with --table"),
    "kdht-replay bench capture": (f"bench none --table {TABLE}", "name a file"),
    "kdht-replay bench --table": ("bench CAPTURE --table none", "name the table's file with --table"),
}  # fmt: skip
MADE_IF_MISSING = {
    "kdhtd --data-dir", "kdhtd --control", "kdhtctl storage import --data-dir", "kdht-replay record directory",
}  # fmt: skip
ELSEWHERE = {"kdhtctl doctor --config", "kdhtctl simulate --config"}
"""They tell of it among their findings."""
NEVER_READ = re.compile(
    r"kdht-replay \w+ --config$|kdhtctl (get|delete|watch|announce|withdraw|members|load|dump|bench|trace) --seal$"
)
"""The same option as of `put`; and one that is read for a running node alone."""


def named_files(name: str) -> Iterator[str]:
    def walk(command: click.Command, name: str, context: click.Context) -> Iterator[str]:
        for each in command.params:
            if isinstance(each.type, click.Path | click.File) and not isinstance(each.type, SocketType):
                yield f"{name} {each.opts[0] if each.opts[0].startswith('-') else each.name}"
        if isinstance(command, click.Group):
            for sub in command.list_commands(context):
                found = command.get_command(context, sub)
                assert found is not None
                yield from walk(found, f"{name} {sub}", context)

    command = import_module(MODULES[name]).command
    yield from walk(command, name, click.Context(command))


@pytest.mark.parametrize("program", MODULES)
def test_the_table_has_every_file_of_a_program(program):
    known = {each for each in {*WAYS, *MADE_IF_MISSING, *ELSEWHERE} if each.split()[0] == program}
    assert {each for each in named_files(program) if not NEVER_READ.search(each)} == known


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNode]:
    node = DevNode(tmp_path_factory.mktemp("node"), f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    with Client(node.listen) as client:
        client.put("k", b"v")
    yield node
    node.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_missing_file_is_one_line_that_says_what_to_do(way, node: DevNode, tmp_path: Path):
    arguments, expected = WAYS[way]
    (tmp_path / "keys").write_text("k\n")
    (tmp_path / "config").write_text(
        '[node]\nlisten = ["127.0.0.1:5348"]\n[[key]]\nsecret = "0123456789abcdef0123"\n'
    )
    named = {"CONFIG": "config", "CAPTURE": str(Path(TABLE).with_name("capture.pcap"))}
    command = [named.get(each, each) for each in arguments.split()]
    done = run(
        [sys.executable, "-m", MODULES[way.split()[0]], *command],
        cwd=tmp_path,
        env={**os.environ, "KDHT_SOCKET": str(node.control), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode not in (0, 130)
    said = done.stderr.strip()
    assert re.search(expected, said), said
    assert "\n" not in said
    assert not list(tmp_path.glob("new*")), "nothing was begun"
