"""Serves the pages of [metrics] and of [web]. They share one server if both have the same address."""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack

from kdht.config.settings import Settings
from kdht.config.values import HttpEndpoint
from kdht.daemon.control.server import Method
from kdht.datapath.host.local_addresses import allow_absent
from kdht.errors import ConfigError


async def serve(settings: Settings, methods: Mapping[str, Method], stack: AsyncExitStack) -> None:
    """Serve the configured pages until `stack` ends. Raises ConfigError.

    A node without pages does not import their libraries.
    """
    metrics_at, web_at = settings.config.metrics.listen, settings.config.web.listen
    if not (metrics_at or web_at):
        return
    from kdht.daemon.pages import metrics, web
    from kdht.daemon.pages.http import HttpServer, Page
    from kdht.daemon.pages.recent import RecentEvents

    found: dict[HttpEndpoint, dict[str, Page]] = {}
    if metrics_at:
        found.setdefault(metrics_at, {}).update(metrics.pages(methods, _names(settings.config.metrics.names)))
    if web_at:
        any_name = settings.config.web.remote
        events = RecentEvents(methods)
        stack.push_async_callback(_ended, asyncio.create_task(events.run()))
        pages = web.pages(methods, str(settings.address), events, any_name=any_name)
        found.setdefault(web_at, {}).update(pages)
    for at, served in found.items():
        name = "metrics.listen" if at == metrics_at else "web.listen"
        server = HttpServer(bound(name, at, freebind=settings.config.node.freebind), served, metrics.ALWAYS)
        await server.start()
        stack.push_async_callback(server.stop)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _names(configured: Sequence[str]) -> frozenset[str]:
    """The host's own name, and the configured ones."""
    return frozenset(name.lower().rstrip(".") for name in (socket.gethostname(), *configured))


def bound(name: str, at: HttpEndpoint, *, freebind: bool) -> socket.socket:
    """A listening socket at `at`, also if this host does not have that address yet (`freebind`). Errors name the configuration's field `name`. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
    try:
        if not freebind:
            return socket.create_server((at.host, at.port), family=family)
        with ExitStack() as undo:
            sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            allow_absent(sock)
            sock.bind((at.host, at.port))
            sock.listen()
            undo.pop_all()
        return sock
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{name} is {at}: {why}: stop what uses it, or choose another") from error
