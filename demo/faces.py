"""`make faces`: a cluster on loopback with all faces, and commands to try in another terminal.

Without root. Nothing is left of it when it ends: at Ctrl-C, at SIGTERM, or after --minutes.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import click

from kdht.client import Client
from kdht.errors import LabError
from kdht.lab.cluster import Cluster, Place, Settings, places_on_loopback
from kdht.lab.wait import wait_until
from kdht.program import boundary
from kdht.program.drawing import PlainConsole
from kdht.program.faces_report import STARTING
from kdht.wire import Address
from kdht.wire.endpoints import Endpoint

NODES = 3
START_SECONDS = 60.0
ANNOUNCED = "web"
GREETING = "hello from kdht"


class Trial(NamedTuple):
    """A command to try, and what it shows."""

    command: str
    shows: str


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--dns", type=click.IntRange(1, 65535), default=1053, show_default=True, help="The port of DNS."
)
@click.option(
    "--http", type=click.IntRange(1, 65535), default=5381, show_default=True, help="The port of HTTP."
)
@click.option(
    "--tracker", type=click.IntRange(1, 65535), default=6969, show_default=True, help="The tracker's port."
)
@click.option(
    "--minutes", type=click.FloatRange(0, 24 * 60), default=60, show_default=True, help="It ends by itself."
)
def command(minutes: float, **ports: int) -> None:
    """A cluster of three nodes on loopback, each with DNS, HTTP and a BitTorrent tracker."""
    console = PlainConsole(soft_wrap=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kdht-faces-")))
        places = places_on_loopback(NODES)
        cluster = Cluster(places, directory, datapath="socket", each=lambda place: tables(place, ports))
        # Ctrl-C is the usual end, at the start too, and no failure.
        stack.enter_context(suppress(KeyboardInterrupt))
        with console.status("starting three nodes and their faces"):
            stack.enter_context(cluster)
            wait_serving(cluster)
            announce(cluster, ports, stack)
        draw(console, cluster, ports, minutes)
        time.sleep(minutes * 60)


def tables(place: Place, ports: Mapping[str, int]) -> Settings:
    """All faces of one node, at its own address."""
    host = place.addresses[0].host
    return {name: {"listen": [str(Address.of(host, port))]} for name, port in ports.items()}


def wait_serving(cluster: Cluster) -> None:
    """Until each face of each node serves. Raises LabError if one cannot."""

    def serving() -> bool:
        states = [face for node in cluster.nodes for face in node.status()["faces"]]
        for face in states:
            if face["why"] not in ("", STARTING):
                raise LabError(f"{face['why']} (or give --{face['name']} another port)")
        return all(face["up"] for face in states)

    wait_until(serving, "the faces", START_SECONDS)


def announce(cluster: Cluster, ports: Mapping[str, int], stack: ExitStack) -> None:
    """A value and a service to look at. The service is the HTTP face of each node, so its addresses answer."""
    client = stack.enter_context(Client([str(node.address) for node in cluster.nodes]))
    client.put("greeting", GREETING.encode())
    for node in cluster.nodes:
        endpoint = Endpoint(Address.of(node.address.host, ports["http"]))
        stack.enter_context(client.announce(ANNOUNCED, endpoint.pack()))


def trials(cluster: Cluster, ports: Mapping[str, int]) -> dict[str, list[Trial]]:
    """What to try, by face. Each command asks another node."""
    one, two, three = (node.address.host for node in cluster.nodes)
    dig = f"dig +short -p {ports['dns']}"
    urls = [f"http://{host}:{ports['http']}" for host in (one, two, three)]
    return {
        "DNS": [
            Trial(f"{dig} @{one} {ANNOUNCED}.kdht", "the members of a set, as addresses"),
            Trial(f"{dig} @{two} _http._tcp.{ANNOUNCED}.kdht SRV", "with their ports"),
            Trial(f"{dig} @{three} greeting.kdht TXT", "a value"),
        ],
        "HTTP": [
            Trial(f"curl -i {urls[0]}/kv/greeting", "a value; its ETag is its version"),
            Trial(f"curl -X PUT --data-binary 'good morning' {urls[1]}/kv/greeting", "changes it, at another node"),
            Trial(f"curl {urls[2]}/sets/{ANNOUNCED}", "the set that DNS shows"),
            Trial(f"curl -N --max-time 30 '{urls[0]}/kv/greeting?watch'", "tells of changes as they happen, for 30 s"),
        ],
        "Tracker": [
            Trial(f"udp://{host}:{ports['tracker']}/announce", "a URL for torrents")
            for host in (one, two, three)
        ],
    }  # fmt: skip


def draw(console: PlainConsole, cluster: Cluster, ports: Mapping[str, int], minutes: float) -> None:
    """Say what to try."""
    console.print("Three nodes run, each with all faces. Try in another terminal:")
    for line in lines(trials(cluster, ports)):
        console.print(line, markup=False)
    console.print(f"\nCtrl-C ends all of it, or {minutes:g} minutes do.")


def lines(by_face: Mapping[str, list[Trial]]) -> Iterator[str]:
    for face, each in by_face.items():
        yield f"\n{face}"
        width = max(len(trial.command) for trial in each)
        yield from (f"  {trial.command:{width}}  # {trial.shows}" for trial in each)


def main() -> NoReturn:
    """Run it, and exit."""
    boundary.run(command, "make faces")


if __name__ == "__main__":
    main()
