"""nft: the ruleset of this configuration: shown, loaded, taken away, and held against what is loaded.

What would be loaded is listed by the kernel itself, in a network namespace that one thread makes for
itself and that ends with it, so that a difference is one of rules and not of spelling.
"""

import ctypes
import difflib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from kdht.cli.options import as_json, config_file, emit
from kdht.errors import DIFFERENCES, DatapathError

if TYPE_CHECKING:
    from kdht.datapath.host.ruleset import Ruleset

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


@click.group()
def nft() -> None:
    """The nftables ruleset of the nfqueue datapath: the one table, and nothing outside it."""


@nft.command()
@config_file
@as_json
def show(config_path: Path, as_json: bool) -> None:
    """Show the ruleset that this configuration loads. Loads nothing.

    Without root it is the one for kernels with nft_queue, for only root may ask which this one is.
    """
    rules = _ruleset(config_path)
    kind = rules.probe() if os.geteuid() == 0 else "native"
    emit({"table": rules.options.table, "way": kind, "text": rules.text(kind)}, as_json, "nft.text")


@nft.command()
@config_file
@as_json
def apply(config_path: Path, as_json: bool) -> None:
    """Load the table, in place of the one there: mends what somebody else removed or changed.

    Without a running nfqueue datapath packets pass the empty queue and go to the socket.
    """
    rules = _ruleset(config_path)
    emit({"table": rules.options.table, "way": rules.apply()}, as_json, "nft.applied")


@nft.command()
@config_file
@as_json
def remove(config_path: Path, as_json: bool) -> None:
    """Take the table away, if it is there: all packets go to the socket until `apply`, or a restart."""
    rules = _ruleset(config_path)
    was = rules.listing() is not None
    rules.remove()
    emit({"table": rules.options.table, "removed": was}, as_json, "nft.removed")


@nft.command()
@config_file
@as_json
def diff(config_path: Path, as_json: bool) -> int:
    """Compare what is loaded with what this configuration would load. Changes nothing.

    Ends with status 8 if they differ. Counts are left out, and what packets put into sets; with nft_compat
    the queue's numbers too, which nft does not list.
    """
    rules = _ruleset(config_path)
    loaded = (rules.listing() or "").splitlines()
    wanted = _elsewhere(lambda: _listed(rules)).splitlines()
    lines = list(difflib.unified_diff(loaded, wanted, "loaded", "configured", lineterm=""))
    emit({"table": rules.options.table, "loaded": bool(loaded), "diff": lines}, as_json, "nft.diff")
    return DIFFERENCES if lines else 0


def _ruleset(path: Path) -> "Ruleset":
    from kdht.config.schema import load
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
