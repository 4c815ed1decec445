"""libtorrent and Node's crypto read what we sign, and we read what they sign."""

import hashlib
import importlib
import json
import subprocess
import time

import pytest
from mainline import MainlineNode, item_in
from signing import SEED

from kdht.wire.bencode import encode
from kdht.wire.certified import check_certified, sign, signed_bytes

pytestmark = pytest.mark.others

NODE_PROGRAM = """
const crypto = require("crypto");
const [seed, publicKey, message, signature] = process.argv.slice(1).map(each => Buffer.from(each, "hex"));
const secret = crypto.createPrivateKey(
    {key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]), format: "der", type: "pkcs8"});
const open = crypto.createPublicKey(
    {key: Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), publicKey]), format: "der", type: "spki"});
console.log(JSON.stringify({
    reads: crypto.verify(null, message, open, signature), signature: crypto.sign(null, message, secret).toString("hex")}));
"""


@pytest.mark.parametrize("salt", [b"", b"a salt"])
def test_node_js_reads_ours_and_we_read_its(salt):
    v = encode({"name": ["value", 7]})
    ours = sign(SEED, salt, 7, v)
    message = signed_bytes(salt, 7, v)
    arguments = [each.hex() for each in (SEED, ours.public_key, message, ours.signature)]
    done = subprocess.run(
        ["node", "-e", NODE_PROGRAM, *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    said = json.loads(done.stdout)
    assert said["reads"] is True
    theirs = ours._replace(signature=bytes.fromhex(said["signature"]))
    check_certified(theirs.key, theirs.version, theirs.flags, theirs.value)


def expanded(seed: bytes) -> bytes:
    """The private key as libtorrent has it: the scalar and the prefix of RFC 8032, section 5.1.5."""
    half = bytearray(hashlib.sha512(seed).digest())
    half[0] &= 0xF8
    half[31] = half[31] & 0x7F | 0x40
    return bytes(half)


@pytest.fixture
def libtorrent():
    return importlib.import_module("libtorrent")


def session_at(libtorrent, port):
    here = libtorrent.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "dht_bootstrap_nodes": f"127.0.0.1:{port}",
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "dht_restrict_routing_ips": False,
            "dht_restrict_search_ips": False,
            "dht_ignore_dark_internet": False,
            "dht_prefer_verified_node_ids": False,
            "alert_mask": libtorrent.alert.category_t.all_categories,
        }
    )
    here.add_dht_node(("127.0.0.1", port))
    return here


@pytest.mark.parametrize("salt", [b"", b"a salt"])
def test_we_read_an_item_that_libtorrent_puts(libtorrent, salt):
    ours = sign(SEED, salt, 1, encode("by libtorrent"))
    with MainlineNode() as node:
        session = session_at(libtorrent, node.port)
        # A put before libtorrent knows a node goes nowhere.
        for _ in range(20):
            session.dht_put_mutable_item(expanded(SEED), ours.public_key, b"by libtorrent", salt)
            if node.came.wait(1):
                break
        assert node.puts
        del session
    item = item_in(node.puts[0])
    check_certified(item.key, item.version, item.flags, item.value)
    assert (item.key, item.v) == (ours.key, ours.v)


@pytest.mark.parametrize("salt", [b"", b"a salt"])
def test_libtorrent_reads_an_item_of_ours(libtorrent, salt):
    ours = sign(SEED, salt, 5, encode("ours"))
    with MainlineNode(ours) as node:
        session = session_at(libtorrent, node.port)
        until = time.monotonic() + 20
        found = []
        while not found and time.monotonic() < until:
            session.dht_get_mutable_item(ours.public_key, salt)
            time.sleep(0.5)
            alerts = session.pop_alerts()
            found = [each for each in alerts if type(each).__name__ == "dht_mutable_item_alert" and each.seq]
        assert found[0].seq == 5
        assert found[0].signature == ours.signature
        del session
