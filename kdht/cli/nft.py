"""nft: shows, loads and removes the ruleset of this configuration, and compares it with the loaded one.

The kernel itself lists the ruleset to load, in a short-lived network namespace of one thread. So a
difference is one of rules, not of spelling.
"""

import ctypes
import difflib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from kdht.cli.options import as_json, emit, running_config_file
from kdht.cli.results import RulesetText, TableDiff, TableLoaded, TableRemoved
from kdht.errors import DIFFERENCES, DatapathError

if TYPE_CHECKING:
    from kdht.datapath.host.ruleset import Ruleset

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


@click.group()
def nft() -> None:
    """Manage the nftables table of the nfqueue datapath. Nothing outside that table is touched."""


@nft.command()
@running_config_file
@as_json
def show(config_path: Path, as_json: bool) -> None:
    """Print the ruleset of this configuration. Loads nothing.

    Only root can ask which rules this kernel needs. Other users get those for kernels with nft_queue.
    """
    rules = _ruleset(config_path)
    kind = rules.probe() if os.geteuid() == 0 else "native"
    emit(RulesetText(rules.options.table, kind, rules.text(kind)), as_json, "nft.text")


@nft.command()
@running_config_file
@as_json
def apply(config_path: Path, as_json: bool) -> None:
    """Load the table. A running node does that by itself when somebody removes or changes it.

    If no nfqueue datapath runs, packets bypass the queue and go to the socket.
    """
    rules = _ruleset(config_path)
    emit(TableLoaded(rules.options.table, rules.apply()), as_json, "nft.applied")


@nft.command()
@running_config_file
@as_json
def remove(config_path: Path, as_json: bool) -> None:
    """Remove the table that a killed node left. A running node keeps its table."""
    from kdht.datapath.host.claim import holder_of
    from kdht.datapath.host.sysctl import RUNTIME_DIR

    rules = _ruleset(config_path)
    if holder := holder_of(RUNTIME_DIR, rules.options.table):
        raise DatapathError(
            f"the node that runs ({holder}) keeps table inet {rules.options.table}: kdhtctl datapath socket"
        )
    was = rules.listing() is not None
    rules.remove()
    emit(TableRemoved(rules.options.table, was), as_json, "nft.removed")


@nft.command()
@running_config_file
@as_json
def diff(config_path: Path, as_json: bool) -> int:
    """Compare the loaded table with the one of this configuration. Changes nothing.

    Exits with 8 if they differ. Ignores counters and the contents of sets, and, with nft_compat, the queue's numbers,
    because nft does not list them.
    """
    rules = _ruleset(config_path)
    loaded = (rules.listing() or "").splitlines()
    wanted = _elsewhere(lambda: _listed(rules)).splitlines()
    lines = list(difflib.unified_diff(loaded, wanted, "loaded", "configured", lineterm=""))
    emit(TableDiff(rules.options.table, bool(loaded), lines), as_json, "nft.diff")
    return DIFFERENCES if lines else 0


def _ruleset(path: Path) -> "Ruleset":
    from kdht.config.reading import load
    from kdht.config.settings import resolve
    from kdht.daemon.datapaths import nfqueue_options
    from kdht.datapath.nfqueue.datapath import ruleset_of

    return ruleset_of(nfqueue_options(resolve(load(path))))


def _listed(rules: "Ruleset") -> str:
    rules.apply()
    return rules.listing() or ""


def _elsewhere(work: Callable[[], T]) -> T:
    """`work` in an empty network namespace of its own. Raises DatapathError without the right to make one."""

    def enter_and_work() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise DatapathError(
                f"cannot make a network namespace to list the rules in ({os.strerror(ctypes.get_errno())}): "
                "ask as root"
            )
        return work()

    with ThreadPoolExecutor(1, "kdht-namespace") as threads:
        return threads.submit(enter_and_work).result()
