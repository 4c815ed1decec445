"""Two nodes with one ID, from a copied data directory: whoever hears of the other says so."""

import shutil
from pathlib import Path

from daemons import DevNode, free_port

from kdht.lab.wait import wait_until


def test_a_copy_of_a_running_node_is_told_of(tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{free_port('127.0.0.1')}" for _ in range(3)]
    first = DevNode(tmp_path / "first", addresses[0])
    nodes = [first]
    try:
        first.wait_ready()
        node = DevNode(tmp_path / "node", addresses[1], "--bootstrap", addresses[0])
        nodes.append(node)
        node.wait_ready(1)
        node.end()
        shutil.copytree(tmp_path / "node", tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock", "lock"))
        (tmp_path / "copy/contacts").unlink()
        node.start()
        node.wait_ready(1)
        copy = DevNode(tmp_path / "copy", addresses[2], "--bootstrap", addresses[1])
        nodes.append(copy)

        def is_told() -> bool:
            return any("another node has this node's ID" in text for text in node.call("status")["warnings"])

        wait_until(is_told, "the warning")
    finally:
        for each in nodes:
            each.close()
