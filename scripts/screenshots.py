"""Makes the pictures of docs/screenshots: a small cluster under load, its web page as PNG, kdhtctl as SVG.

    make screenshots

It needs root: the nodes are in network namespaces and their packets are diverted (nfqueue). The browser is the
tests'. Nothing is left behind.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

from browser import browser
from rich.console import Console
from rich.text import Text
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from kdht.client import AsyncClient
from kdht.lab.cluster import Cluster, LabNode, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

OUT = Path(__file__).parent.parent / "docs/screenshots"
NODES = 12
VALUES = 500
KEY = "key 17"
WEB = "127.0.0.1:5380"
COLUMNS = 132
WATCHED_SECONDS = 40
"""How long the page looks on before its picture is taken."""
SIZE = (1440, 1700)
SMALL = (1280, 800)
PHONE = (390, 844)
ERASED = "\x1b[2K"
"""What a live picture writes before it draws itself anew."""
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)

FOUND_SOMETHING = (8, 10)
"""Exit codes of `cluster` and `doctor` that are findings: they are in the picture."""

TERMINALS: dict[str, list[str]] = {
    "status": ["status"],
    "top": ["top", "--once"],
    "cluster": ["cluster"],
    "trace": ["trace", KEY],
    "table": ["table"],
    "doctor": ["doctor"],
    "datapath": ["datapath"],
    "stats": ["stats"],
}
"""Each picture's name, and what kdhtctl is told."""


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[Cluster, Host]]:
    """The nodes, and the client's host."""
    with Lab("shots") as lab:
        places = places_in(lab, NODES)
        client = lab.host("client", ipv4="10.53.48.250/24")
        settings = {"web": {"listen": WEB}}
        with Cluster(places, directory, datapath="nfqueue", settings=settings) as made:
            yield made, client


class Load:
    """Gets and some puts through all nodes, in a thread, until the block ends."""

    def __init__(self, nodes: list[LabNode], where: Host) -> None:
        self._addresses = [str(node.address) for node in nodes]
        self._where = where
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with self._where.enter():
            asyncio.run(self._work())

    async def _work(self) -> None:
        values = {f"key {number}": b"a value of some length " * 8 for number in range(VALUES)}
        async with AsyncClient(self._addresses) as client:
            await client.put_many(values)
        await asyncio.gather(*(self._through(address, values) for address in self._addresses))

    async def _through(self, address: str, values: dict[str, bytes]) -> None:
        some = dict(list(values.items())[::25])
        async with AsyncClient(address) as client:
            while not self._ended.is_set():
                await client.get_many(values, window=2)
                await client.put_many(some, window=2)


def terminal(name: str, arguments: list[str], node: LabNode) -> None:
    """What kdhtctl prints, with its colours, as an SVG that refers to nothing outside."""
    command = [sys.executable, "-m", "kdht.cli.main", *arguments]
    look = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    files = {"KDHT_SOCKET": str(node.control), "KDHT_CONFIG": str(node.control.with_name("kdhtd.toml"))}
    with node.host.enter():
        said = subprocess.run(
            command, env={**os.environ, **look, **files}, capture_output=True, text=True, timeout=60
        )
    if said.returncode not in (0, *FOUND_SOMETHING):
        sys.exit(f"screenshots: kdhtctl {' '.join(arguments)}: {said.stderr.strip()}")
    console = Console(record=True, width=COLUMNS, file=StringIO())
    frame = said.stdout.rpartition(ERASED)[2].rstrip()  # of `top`, the last one
    console.print(Text.from_ansi(f"$ kdhtctl {' '.join(arguments)}\n{frame}"), soft_wrap=True)
    svg = console.export_svg(title=f"kdhtctl {arguments[0]}", unique_id=f"kdht-{name}")
    (OUT / f"{name}.svg").write_text(FONT_FACE.sub("", svg))


def page(node: LabNode, home: Path) -> None:
    """The page after it has looked on for a while; with the path of a key, in the dark; on a phone."""
    with node.host.enter(), browser(home, *SIZE) as driver:
        driver.get(f"http://{WEB}/")
        wait_until(lambda: len(driver.find_elements(By.CSS_SELECTOR, "#ring .node")) == NODES, "the ring")
        time.sleep(WATCHED_SECONDS)
        shoot(driver, "web", *SIZE)
        look(driver, "dark")
        resize(driver, *SMALL)
        driver.find_element(By.ID, "key").send_keys(KEY)
        driver.find_element(By.CSS_SELECTOR, "#trace button").click()
        wait_until(lambda: driver.find_elements(By.CSS_SELECTOR, "#path li"), "the path")
        shoot(driver, "web-trace", *SMALL)
        look(driver, "light")
        shoot(driver, "web-phone", *PHONE)


def look(driver: WebDriver, scheme: str) -> None:
    colours = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [colours]})


def resize(driver: WebDriver, width: int, height: int) -> None:
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def shoot(driver: WebDriver, name: str, width: int, height: int) -> None:
    resize(driver, width, height)
    driver.execute_script("scrollTo(0, 0)")
    driver.save_screenshot(str(OUT / f"{name}.png"))


def entry_far_from(nodes: list[LabNode], key: str) -> LabNode:
    """A node from which the key's way is longest."""

    def hops(node: LabNode) -> int:
        with node.host.enter():
            return len(asyncio.run(_trace(node, key)))

    return max(nodes, key=hops)


async def _trace(node: LabNode, key: str) -> list[object]:
    async with AsyncClient(str(node.address)) as client:
        return [*await client.trace(key)]


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("screenshots: needs root, for network namespaces")
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kdht-shots-") as scratch:
        home = Path(scratch)
        with cluster(home) as (made, where), Load(made.nodes, where):
            node = entry_far_from(made.nodes, KEY)
            page(node, home)
            for name, arguments in TERMINALS.items():
                terminal(name, arguments, node)
    print(*sorted(OUT.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
