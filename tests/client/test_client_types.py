"""The client as type checkers see it: what users write is accepted, what cannot work is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ci import lacks

ROOT = Path(__file__).parents[2]
USER = ROOT / "tests/fixtures/typed_user.py"
WRONG = [number for number, line in enumerate(USER.read_text().splitlines(), 1) if line.endswith("# wrong")]


def printed(command: Iterable[str], folder: Path) -> str:
    """Runs outside of the source tree, as a user does."""
    done = subprocess.run(
        [*command, str(USER)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1, done.stderr
    return done.stdout


def test_mypy_strict_accepts_dictionaries_of_any_keys_and_values(tmp_path):
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--output=json"]
    told = [
        json.loads(line) for line in printed([*command, f"--cache-dir={tmp_path}"], tmp_path).splitlines()
    ]
    assert [each["line"] for each in told] == WRONG, told


def test_pyright_strict_accepts_them_too(tmp_path):
    checker = shutil.which("basedpyright", path=Path(sys.executable).parent)
    if checker is None:
        lacks("needs basedpyright (pip install --group dev)")
    settings = {"include": [str(USER)], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    told = printed(
        [checker, "--outputjson", f"--project={tmp_path}", f"--pythonpath={sys.executable}"], tmp_path
    )
    assert [each["range"]["start"]["line"] + 1 for each in json.loads(told)["generalDiagnostics"]] == WRONG
