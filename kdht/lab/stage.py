"""The common set-up of the demonstration and the histories around a cluster in network namespaces."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kdht.datapath.host.sysctl import RUNTIME_DIR
from kdht.lab.netns import Host, Lab

CLIENT = 250
"""The number of the client's address; nodes are numbered from 1."""


def client_host(lab: Lab, *, ipv6: bool) -> Host:
    """A host for clients, on the bridge of the nodes and in their network."""
    if ipv6:
        return lab.host("client", ipv6=f"fd53:48::{CLIENT:x}/64")
    return lab.host("client", ipv4=f"10.53.48.{CLIENT}/24")


@contextmanager
def runtime_dir_as_found() -> Iterator[None]:
    """Remove the directory of the nodes' sysctl ledgers at the end, if it was not there before and is empty."""
    was_there = RUNTIME_DIR.exists()
    try:
        yield
    finally:
        if not was_there:
            with suppress(OSError):  # a node that is not ours uses it by now
                RUNTIME_DIR.rmdir()
