"""/metrics, /healthz and /readyz: for monitoring.

/metrics answers by numeric addresses, localhost, and the names in metrics.names. So a foreign page in a browser here,
with its own name pointed at this machine (DNS rebinding), reads nothing. The other two tell no more than one word.
Each request collects its samples. Prometheus's client library makes the format, and the
figures of the process (memory, files, CPU).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from kdht.daemon.control.server import Method, answered
from kdht.daemon.pages.http import HttpRequest, Page, Response, is_local, refusal
from kdht.daemon.pages.measures import METRICS
from kdht.daemon.pages.samples import NodeAnswers, RunningAnswers, Sample, samples
from kdht.errors import KdhtError
from kdht.program.answers import Durations, Latency, NodeStats, RoutingTable
from kdht.program.node_status import FaceState, NodeStatus

Methods = Mapping[str, Method]
ALWAYS = ("/healthz", "/readyz")
"""What must be answered while others hold all connections: else who asks takes the node for dead."""


def pages(methods: Methods, names: Collection[str]) -> dict[str, Page]:
    """Pages by path. `methods`: those of the control socket. `names`: host names of this machine, in lower case."""

    async def metrics(request: HttpRequest) -> Response:
        if not _is_ours(request.headers.get("host", ""), names):
            return refusal(403, "ask by a numeric address, as localhost, or by a name in metrics.names")
        encode, content_type = _encoder(request.headers.get("accept", ""))
        body: bytes = encode(_registry(await ask(methods)))
        return Response(body, content_type=content_type)

    async def alive(request: HttpRequest) -> Response:
        return Response(b"alive\n")

    async def ready(request: HttpRequest) -> Response:
        status = await answered(methods, "status", NodeStatus)
        missing = not_ready(status)
        if missing:
            return refusal(503, f"not ready: {missing}")
        writes = f"not ready for writes: {status.not_writable}" if status.not_writable else ""
        if writes and "writes" in request.query:
            return refusal(503, writes)
        lines = ["ready", writes or "ready for writes", *map(_about_face, status.faces)]
        return Response("".join(f"{line}\n" for line in lines).encode())

    return {"/metrics": metrics, "/healthz": alive, "/readyz": ready}


def _about_face(face: FaceState) -> str:
    # A face that is down does not make the node unready: clients of the node have others ways to it.
    return f"{face.name} serves" if face.up else f"{face.name} does not serve: {face.why}"


def _is_ours(host: str, names: Collection[str]) -> bool:
    # Without a name no browser asks.
    name = host.rpartition(":")[0] or host
    return not host or is_local(host) or name.lower().rstrip(".") in names


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """What the caller accepts, as far as the library can read it."""
    try:
        return choose_encoder(accept)
    except Exception:  # it parses with little care
        return choose_encoder("")


async def ask(methods: Methods) -> NodeAnswers:
    """All answers of the node; only its status while it does not run."""
    status = await answered(methods, "status", NodeStatus)
    try:
        return NodeAnswers(
            status,
            RunningAnswers(
                await answered(methods, "stats", NodeStats),
                await answered(methods, "table", RoutingTable),
                await answered(methods, "latency", Latency),
            ),
        )
    except KdhtError:
        return NodeAnswers(status, None)


def not_ready(status: NodeStatus) -> str:
    """Why the node should not be sent requests; empty if it should."""
    if status.state != "running":
        return f"the node is {status.state}"
    return status.why_not_ready


def _registry(told: NodeAnswers) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Once(families(samples(told))))
    ProcessCollector(registry=registry)
    return registry


class _Once(Collector):
    """Yields the samples collected for one answer."""

    def __init__(self, found: list[Family]) -> None:
        self._found = found

    def collect(self) -> Iterable[Family]:
        return self._found


def families(given: Iterator[Sample]) -> list[Family]:
    """The library's form of samples: every metric of METRICS, those without samples too."""
    found = {
        name: _FAMILIES[metric.kind](name, metric.meaning, labels=metric.labels)
        for name, metric in METRICS.items()
    }
    for name, labels, value in given:
        if METRICS[name].kind == "histogram":
            found[name].add_metric(labels, buckets=_buckets(value), sum_value=value.total)
        else:
            found[name].add_metric(labels, value)
    return list(found.values())


_FAMILIES: dict[str, Callable[..., Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    """Upper bounds and cumulative counts, as Prometheus has them."""
    bounds = [*map(str, durations.bounds), "+Inf"]
    return list(zip(bounds, accumulate(durations.counts), strict=True))
