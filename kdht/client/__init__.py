"""What an application imports: get, put, delete and trace through any node of a cluster.

It needs layer 0 alone. `_exchange` holds what a client knows and decides, without I/O and
without a clock; `_calls` what the operations mean; `sync` and `aio` add sockets and time.
"""

from kdht.client._calls import Hop
from kdht.client.aio import AsyncClient
from kdht.client.sync import Client

__all__ = ["AsyncClient", "Client", "Hop"]
