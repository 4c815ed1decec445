"""Which datapaths run above the socket one, and what becomes of them when they cannot."""

import logging
from contextlib import ExitStack

from kdht._routing import Core
from kdht.daemon.settings import Settings
from kdht.datapath import netlink, ruleset
from kdht.datapath.base import Datapath
from kdht.datapath.nfqueue import NfqueueDatapath, NfqueueOptions
from kdht.errors import DatapathError

log = logging.getLogger(__name__)


def start_datapaths(settings: Settings, core: Core, undo: ExitStack) -> list[Datapath]:
    """Start what the configuration asks for; `undo` stops it.

    Raises DatapathError, unless the choice was `auto`: then the socket has to do.
    """
    kind = settings.config.datapath.kind
    if kind == "socket":
        return []
    try:
        nfqueue = NfqueueDatapath(core, nfqueue_options(settings))
        nfqueue.start()
    except DatapathError as error:
        if kind == "nfqueue":
            raise
        log.warning("nfqueue cannot work here, the socket treats all packets", extra={"why": error})
        return []
    undo.callback(nfqueue.stop)
    log.info("nfqueue started", extra={"interfaces": ",".join(nfqueue.status()["interfaces"])})  # type: ignore[arg-type]
    return [nfqueue]


def nfqueue_options(settings: Settings) -> NfqueueOptions:
    """What the configuration says, as the datapath takes it."""
    config = settings.config.datapath
    return NfqueueOptions(
        addresses=settings.own,
        interfaces=tuple(str(name) for name in config.interfaces),
        port=settings.address.port,
        first_queue=config.first_queue,
        queues=config.queues,
        max_len=config.queue_length,
        client_rate=config.rate,
        table=config.table,
    )


def probe_nfqueue(settings: Settings) -> str:
    """How nfqueue would work here, in words. Raises DatapathError where it cannot. Changes nothing."""
    options = nfqueue_options(settings)
    interfaces = options.interfaces or tuple(netlink.interfaces_of(list(options.addresses)))
    if not interfaces:
        raise DatapathError("no interface but lo holds an own address: name some in datapath.interfaces")
    way = ruleset.probe_queue(options.nft)
    if way is None:
        raise DatapathError("this kernel has no NFQUEUE: choose the socket datapath")
    first, last = options.queue.first, options.queue.last
    numbers = f"queue {first}" if first == last else f"queues {first} to {last}"
    return f"diverts packets from {', '.join(interfaces)} to {numbers} (nft's {way} way)"
