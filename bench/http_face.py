"""The HTTP face, asked by wrk on loopback: small values, and a large one both ways. Needs wrk.

    python -m bench.http_face [--seconds S] [--connections N] [--json]

One node with one face, each connection kept. CPU is that of node and face for each request. Beside it the same reads by AsyncClient,
without a face, and the time that h11 alone takes for a request and its answer.
"""

import asyncio
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import h11
from rich.console import Console
from rich.table import Table

from bench.peers.counting import cpu_seconds
from kdht.client import AsyncClient
from kdht.lab.cluster import Cluster, places_on_loopback
from kdht.lab.wait import wait_until

HOST, PORT = "127.0.0.1", 5391
VALUE = b"x" * 100
LARGE = 8 << 20
H11_RUNS = 3000
PUTS = 'wrk.method = "PUT"\nwrk.body = string.rep("x", 100)\n'


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def wrk(
    path: str, connections: int, seconds: int, pids: list[int], script: Path | None = None
) -> dict[str, float]:
    """Raises SystemExit for answers other than 2xx."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    command += ["-s", str(script)] if script else []
    before = cpu_seconds(pids)
    said = subprocess.run(
        [*command, f"http://{HOST}:{PORT}{path}"], capture_output=True, text=True, check=True
    ).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrk was answered with errors:\n{said}")
    count = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])  # type: ignore[index]
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", said).groups()  # type: ignore[union-attr]
    p50_ms = float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    cpu_us = (cpu_seconds(pids) - before) / count * 1e6
    return {"requests_s": round(rate), "p50_ms": round(p50_ms, 3), "cpu_us": round(cpu_us)}


def large() -> dict[str, float]:
    """MiB a second of one value, up and down."""
    connection = http.client.HTTPConnection(HOST, PORT)
    data, found = os.urandom(LARGE), {}
    for method, body in (("PUT", data), ("GET", None)):
        begin = time.perf_counter()
        connection.request(method, "/kv/large", body)
        answer = connection.getresponse()
        got = answer.read()
        if answer.status != 200 or (method == "GET" and got != data):
            raise SystemExit(f"{method} of a large value failed: {answer.status}")
        found[method.lower()] = round(LARGE / (time.perf_counter() - begin) / (1 << 20), 2)
    connection.close()
    return found


async def without_face(node: str, outstanding: int, seconds: int) -> dict[str, float]:
    async with AsyncClient(node) as client:
        end, count = time.monotonic() + seconds, 0

        async def run() -> None:
            nonlocal count
            while time.monotonic() < end:
                await client.get("small")
                count += 1

        await asyncio.gather(*(run() for _ in range(outstanding)))
    return {"requests_s": round(count / seconds)}


def h11_us() -> float:
    """Microseconds of h11 for one request and its answer."""
    server = h11.Connection(h11.SERVER)
    request = f"GET /kv/small HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\r\n".encode()
    headers = [
        ("Content-Type", "application/octet-stream"),
        ("ETag", '"1"'),
        ("Content-Length", str(len(VALUE))),
    ]
    begin = time.process_time()
    for _ in range(H11_RUNS):
        server.receive_data(request)
        while not isinstance(server.next_event(), h11.EndOfMessage):
            pass
        for event in (
            h11.Response(status_code=200, headers=headers),
            h11.Data(data=VALUE),
            h11.EndOfMessage(),
        ):
            server.send(event)
        server.start_next_cycle()
    return round((time.process_time() - begin) / H11_RUNS * 1e6, 1)


def measure(connections: int, seconds: int) -> dict[str, Any]:
    faces = {"http": {"listen": [f"{HOST}:{PORT}"], "rate": 0, "connections_per_client": 512}}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "put.lua"
        script.write_text(PUTS)
        with Cluster(places_on_loopback(1), Path(folder), datapath="socket", settings=faces) as cluster:
            node = cluster.nodes[0]
            wait_until(_serves, "the face", 60)
            pids = family(node.pid)
            return {
                "connections": connections,
                "put": wrk("/kv/small", connections, seconds, pids, script),
                "get": wrk("/kv/small", connections, seconds, pids),
                "get, one connection": wrk("/kv/small", 1, seconds, pids),
                "get without the face": asyncio.run(without_face(str(node.address), connections, seconds)),
                "large_MiB_s": large(),
                "h11_us": h11_us(),
            }


def _serves() -> bool:
    try:
        connection = http.client.HTTPConnection(HOST, PORT, timeout=5)
        connection.request("GET", "/openapi.json")
        return connection.getresponse().status == 200
    except OSError:
        return False


@click.command(help=__doc__)
@click.option("--seconds", type=click.IntRange(1), default=5, show_default=True, help="Of each load.")
@click.option("--connections", type=click.IntRange(1, 200), default=32, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(seconds: int, connections: int, as_json: bool) -> None:
    if shutil.which("wrk") is None:
        raise click.ClickException("wrk is missing: apt-get install wrk")
    found = measure(connections, seconds)
    if as_json:
        print(json.dumps(found))
        return
    table = Table(
        "load", "requests/s", "p50 ms", "CPU a request, µs", title=f"HTTP, {connections} connections"
    )
    for name, load in found.items():
        if isinstance(load, dict) and "requests_s" in load:
            cells = (f"{load[key]:,}" if key in load else "" for key in ("requests_s", "p50_ms", "cpu_us"))
            table.add_row(name, *cells)
    Console().print(table)
    up, down = found["large_MiB_s"]["put"], found["large_MiB_s"]["get"]
    Console().print(f"8 MiB: {up} MiB/s up, {down} MiB/s down. h11 alone: {found['h11_us']} µs a request")


if __name__ == "__main__":
    main()
