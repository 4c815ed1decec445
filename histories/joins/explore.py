"""The same search as `search`, of the present rule, by a program in C: a thousand times as many states a second."""

import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from histories.compiling import compiled
from histories.joins.model import Setting
from histories.joins.search import Found
from kdht.errors import LabError

SOURCE = Path(__file__).with_name("explore.c")


def program(directory: Path) -> Path:
    """The program, in `directory`. Raises LabError without a C compiler."""
    return compiled(SOURCE, directory / "explore")


def explore(program: Path, setting: Setting, most: int) -> Found:
    """Look at about `most` states. It needs 24 bytes of memory for each, and 80 more for each of the last step."""
    words = [
        setting.old,
        setting.new,
        "".join(map(str, setting.order)),
        setting.deaths,
        setting.writes,
        setting.cuts,
    ]
    words += [int(setting.single), int(setting.remembers), most]
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{setting}: {done.stderr.strip() or f'explore ended with {done.returncode}'}")
    first, *steps = done.stdout.splitlines()
    states, complete, _, broken = first.split(" ", 3)
    return Found(int(states), complete == "1", broken, tuple(steps))


def orders(old: int, new: int) -> Iterator[tuple[int, ...]]:
    """All orders of distance in which the first nodes, which are alike, keep theirs, and the new ones too."""
    for places in combinations(range(old + new), new):
        first, later = iter(range(old)), iter(range(old, old + new))
        yield tuple(next(later if place in places else first) for place in range(old + new))
