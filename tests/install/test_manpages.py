"""Man pages come from the commands themselves: all of them are there, and groff has nothing to complain of."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from shutil import which

import click
import pytest
from daemons import run
from paths import ROOT

PAGES = {
    "man8/kdhtd.8": "kdht.daemon.main",
    "man8/kdht-faces.8": "kdht.faces.main",
    "man1/kdhtctl.1": "kdht.cli.main",
    "man1/kdht-replay.1": "kdht.replay.main",
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "scripts/manpages.py", target], check=True, cwd=ROOT)
    return target


def shown(page: Path) -> str:
    """The page as a reader sees it, 200 columns wide."""
    done = run(["groff", "-man", "-Tutf8", "-ww", "-P-cbou", "-rLL=200n", page])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def options(command: click.Command) -> set[str]:
    """The long options of a command and all below it, without those that are hidden."""
    context = click.Context(command)
    found = {
        max(param.opts, key=len)
        for param in command.params
        if isinstance(param, click.Option) and not param.hidden
    }
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found |= options(below)
    return found


@pytest.mark.skipif(not which("groff"), reason="needs groff")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_renders_with_every_option(pages: Path, name: str) -> None:
    text = shown(pages / name)
    missing = [option for option in options(import_module(PAGES[name]).command) if option not in text]
    assert missing == []
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"):
        assert re.search(rf"^{section}$", text, re.MULTILINE)


@pytest.mark.skipif(not which("groff"), reason="needs groff")
def test_every_subcommand_has_its_place(pages: Path) -> None:
    text = shown(pages / "man1/kdhtctl.1")
    command = import_module("kdht.cli.main").command
    for name in command.list_commands(click.Context(command)):
        assert re.search(rf"^ +{name}$", text, re.MULTILINE), name
        assert f"kdhtctl {name}" in text


def test_roff_requests_are_escaped() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        escaped = import_module("manpages").escaped
    finally:
        sys.path.pop(0)
    assert escaped(".TH\n'x\na\\b -c") == "\\&.TH\n\\&'x\na\\eb \\-c"
