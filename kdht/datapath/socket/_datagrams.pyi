"""The typed surface of _datagrams.pyx."""

from kdht.datapath.base import Datagram
from kdht.datapath.socket._direct import Direct

def offer(direct: Direct, batch: list[Datagram]) -> list[Datagram]: ...
