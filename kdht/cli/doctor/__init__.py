"""doctor: examines this host and its node. Each line has the command that mends it.

A check is a function that looks and gives findings; it changes nothing and asks no other host.
For everybody but root, a check that needs root is a warning.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from kdht.cli.doctor import firewall, host, kernel, links, node
from kdht.cli.doctor.findings import Check, Examination, Finding, Subject, examined
from kdht.cli.options import as_json, config_file, control_socket, emit, socket_given
from kdht.errors import UNHEALTHY

CHECKS: tuple[Check, ...] = (*node.CHECKS, *kernel.CHECKS, *links.CHECKS, *firewall.CHECKS, *host.CHECKS)


@click.command()
@config_file
@control_socket
@click.option("--quiet", "-q", is_flag=True, help="Show warnings and failures only.")
@as_json
def doctor(config_path: Path, socket_path: Path, quiet: bool, as_json: bool) -> int:
    """Examine the configuration, the kernel, the network and the running node. Changes nothing.

    Each line is ok, a warning or a failure, and says how to fix it. Root sees more. Exits with 10 if there is a
    failure. Without --socket it asks the daemon of the configuration's control socket.
    """
    findings = list(examine(examined(config_path, socket_path if socket_given() else None)))
    counted = Counter(each.state for each in findings)
    shown = [each for each in findings if not quiet or each.state != "ok"]
    examination = Examination(shown, counted["ok"], counted["warning"], counted["failure"])
    emit(examination, as_json, "doctor.doctor")
    return UNHEALTHY if counted["failure"] else 0


def examine(subject: Subject) -> Iterator[Finding]:
    """All checks, in order."""
    for check in CHECKS:
        yield from check(subject)
