"""Bearer tokens and scopes at the HTTP face of a node that asks for them; TLS; and its pool of clients."""

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from shutil import which

import pytest
from ci import lacks
from http_nodes import Caller, HttpNode, caller, http_node
from tokens import EPOCH, SECRET, token

from kdht import AsyncClient
from kdht.config.faces_schema import HttpSection
from kdht.errors import BadToken, ConfigError
from kdht.faces.http.answers import Refused
from kdht.faces.http.clients import ClientPool
from kdht.faces.http.tls import Certificate
from kdht.lab.wait import wait_until
from kdht.wire.rights import Right

HOST = "127.62.3.1"
ACCESS = f"""
[access]
writes = "token"
reads = "token"
[[access.key]]
epoch = {EPOCH}
secret = "{SECRET}"
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpNode]:
    with http_node(tmp_path_factory.mktemp("http"), HOST, "rate = 0", ACCESS) as node:
        yield node


@pytest.fixture
def ask(node: HttpNode) -> Iterator[Caller]:
    with caller(node) as made:
        yield made


def bearer(**claims: object) -> str:
    return f"Bearer {token(**claims).text}"


def test_each_caller_has_the_rights_of_its_own_token(ask: Caller) -> None:
    refused = ask("PUT", "/kv/a", b"x")
    assert (refused.status, refused.code, refused.json["done"]) == (401, "token_needed", "no")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert ask("PUT", "/kv/a", b"x", Authorization=bearer()).status == 200
    assert ask("GET", "/kv/a", Authorization=bearer(rights=Right.READ)).body == b"x"
    denied = ask("PUT", "/kv/a", b"y", Authorization=bearer(rights=Right.READ))
    assert (denied.status, denied.code) == (403, "denied")
    assert ask("GET", "/kv/a").status == 401
    assert ask("GET", "/kv/a?watch").status == 401
    assert ask("GET", "/kv/a", Authorization=bearer().replace("Bearer", "bEARER")).status == 200


def test_a_large_value_with_a_token(ask: Caller) -> None:
    value = bytes(range(256)) * 40
    assert ask("PUT", "/kv/large", value, Authorization=bearer()).status == 200
    assert ask("GET", "/kv/large", Authorization=bearer()).body == value
    # A token's proof takes room: 1100 bytes are large with it.
    assert ask("PUT", "/kv/large", value[:1100], Authorization=bearer()).status == 200
    assert ask("GET", "/kv/large", Authorization=bearer()).body == value[:1100]
    assert ask("DELETE", "/kv/large", Authorization=bearer()).status == 204


@pytest.mark.parametrize(
    "text", ["Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Bearer @/etc/passwd", "Bearer kdht1." + "A" * 51, "kdht1.x", ""]
)  # fmt: skip
def test_what_is_no_token_is_refused(ask: Caller, text: str) -> None:
    said = ask("GET", "/kv/a", Authorization=text)
    assert said.status in (401, 403)
    assert "root:" not in said.body.decode()


def test_scopes_have_keys_of_their_own(ask: Caller) -> None:
    ours = bearer(scope="ours")
    assert ask("PUT", "/kv/scoped", b"ours", Authorization=ours).status == 200
    assert ask("GET", "/kv/scoped", Authorization=ours).body == b"ours"
    assert ask("GET", "/kv/scoped?scope=ours", Authorization=bearer()).body == b"ours"
    assert ask("GET", "/kv/scoped", Authorization=bearer()).status == 404
    assert ask("GET", "/kv/scoped?scope=theirs", Authorization=ours).status == 401


def test_members_of_one_holder_are_not_anothers(ask: Caller) -> None:
    alice, bob = bearer(holder="alice"), bearer(holder="bob")
    ask("PUT", "/sets/web?member=a", b"alice", Authorization=alice)
    assert ask("DELETE", "/sets/web?member=a", Authorization=bob).status == 404
    members = ask("GET", "/sets/web", Authorization=bob).json["members"]
    assert [each["payload"] for each in members] == ["alice"]


# --- The pool


def test_the_pool_keeps_those_in_use_and_closes_the_oldest() -> None:
    async def main() -> None:
        made: list[AsyncClient] = []

        def make(text: str, scope: str | None) -> AsyncClient:
            made.append(AsyncClient("127.0.0.1", token=text, scope=scope))
            return made[-1]

        pool = ClientPool(make, 2)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(pool.client("", None))
            assert await stack.enter_async_context(pool.client("", None)) is first
            async with pool.client("", "b"):
                with pytest.raises(Refused):
                    await pool.client("", "c").__aenter__()
            async with pool.client("", "c"):
                assert (len(made), made[1]._closed, first._closed) == (3, True, False)
            with pytest.raises(BadToken):
                await pool.client("no token", None).__aenter__()
        await pool.close()
        assert all(each._closed for each in made)

    asyncio.run(main())


# --- TLS


def new_certificate(folder: Path, name: str) -> None:
    if which("openssl") is None:
        lacks("needs openssl")
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} -addext subjectAltName=IP:{HOST}"
    files = ["-keyout", folder / "new.key", "-out", folder / "new.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    (folder / "new.key").replace(folder / "http.key")
    (folder / "new.pem").replace(folder / "http.pem")


def told_by(node: HttpNode, folder: Path, *, trusting: bool = True) -> str:
    """The name in the certificate that the face shows, and that its answer is one."""
    where = ["--cacert", folder / "http.pem"] if trusting else []
    done = subprocess.run(
        ["curl", "-sv", *where, f"https://{node.host}:{node.port}/kv/nothing"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode:
        return f"curl ended with {done.returncode}"
    assert '"not_found"' in done.stdout
    return next(line for line in done.stderr.splitlines() if "subject:" in line)


def test_tls_with_a_certificate_that_is_renewed(tmp_path: Path) -> None:
    new_certificate(tmp_path, "first")
    files = f'tls_certificate = "{tmp_path}/http.pem"\ntls_key = "{tmp_path}/http.key"'
    with http_node(tmp_path / "node", HOST, files) as node:
        assert "CN=first" in told_by(node, tmp_path)
        assert told_by(node, tmp_path, trusting=False) == "curl ended with 60"
        with caller(node) as plain, pytest.raises(OSError, match=r".*"):
            plain("GET", "/kv/nothing")
        new_certificate(tmp_path, "second")
        wait_until(lambda: "CN=second" in told_by(node, tmp_path), "the new certificate")


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    pem, key = tmp_path / "http.pem", tmp_path / "http.key"
    with pytest.raises(ConfigError, match="No such file"):
        Certificate(str(pem), str(key))
    pem.write_text("nothing")
    key.write_text("nothing")
    with pytest.raises(ConfigError, match="both are files in PEM"):
        Certificate(str(pem), str(key))
    new_certificate(tmp_path, "good")
    found = Certificate(str(pem), str(key))
    key.write_text("half written")
    found.refresh()  # is logged, and the good one stays
    assert isinstance(found.context, ssl.SSLContext)
    with pytest.raises(ValueError, match="go together"):
        HttpSection(tls_key="/a")
