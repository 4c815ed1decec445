"""docs/replay.md: every command that needs neither root nor a node. tests/root/test_replay_doc_root.py types the others."""

import re
from pathlib import Path

from fences import fences
from replay_doc import DOCUMENT, prepare, run, steps

from kdht.replay.main import COMMANDS


def test_every_command_of_the_document_is_typed_somewhere() -> None:
    typed = [step.command for step in (*steps(), *steps("root"))]
    assert sum(each.count("kdht-replay ") for each in typed) == sum(
        len(re.findall(r"^(?:\$ |.*\| )?kdht-replay ", fence.text, re.MULTILINE))
        for fence in fences(DOCUMENT)
    )
    # Completion is for a shell, and `--help` explains it.
    wanted = COMMANDS.keys() - {"completion"}
    assert {name for name in wanted if any(f"kdht-replay {name} " in each for each in typed)} == wanted
    assert not re.search(r"`kdht-replay \w", DOCUMENT.read_text()), "a command in a sentence is not typed"


def test_the_commands_do_what_the_document_shows(tmp_path: Path) -> None:
    prepare(tmp_path)
    status = 0
    for step in steps():
        status = run(step, tmp_path, status)
