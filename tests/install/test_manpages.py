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

from kdht.errors import EXIT_CODES

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
    for section in (
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXIT STATUS",
        "SIGNALS",
        "EXAMPLES",
        "SEE ALSO",
    ):
        assert re.search(rf"^{section}$", text, re.MULTILINE)
    assert ("ENVIRONMENT" in text) == (name != "man8/kdht-faces.8")


@pytest.mark.skipif(not which("groff"), reason="needs groff")
def test_the_configuration_has_a_page_with_every_field(pages: Path) -> None:
    text = shown(pages / "man5/kdhtd.toml.5")
    fields = re.findall(r"^#?(\w+) = ", (ROOT / "docs/kdhtd.toml").read_text(), re.MULTILINE)
    assert len(fields) > 40
    for field in fields:
        assert re.search(rf"^ +{field} = ", text, re.MULTILINE), field
    for section in ("NAME", "DESCRIPTION", "EXAMPLES", "FIELDS", "FILES", "SEE ALSO"):
        assert re.search(rf"^{section}$", text, re.MULTILINE)


@pytest.mark.skipif(not which("groff"), reason="needs groff")
def test_every_exit_code_and_example_is_real(pages: Path) -> None:
    for name in PAGES:
        text = shown(pages / name)
        for code, what in EXIT_CODES.items():
            assert re.search(rf"^ +{code} +{re.escape(what)}", text, re.MULTILINE), (name, code)
        examples = text.partition("\nEXAMPLES\n")[2].partition("\nSEE ALSO\n")[0]
        program = name.partition("/")[2].rpartition(".")[0]
        command = import_module(PAGES[name]).command
        used = (
            set(re.findall(rf"{program} ([a-z]+)", examples)) if isinstance(command, click.Group) else set()
        )
        assert (
            used <= set(command.list_commands(click.Context(command)))
            if used
            else program in ("kdhtd", "kdht-faces")
        )


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
