"""The DNS face and the programs that ask DNS servers, all of them Debian's, unmodified and in namespaces.

client 10.53.48.99, fd53:48::99 --- br0 --- n1, n2: 10.53.48.N, fd53:48::N, each with a face on all its addresses
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from ci import lacks

from kdht import Client
from kdht.lab.cluster import Cluster, places_in
from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until
from kdht.wire.endpoints import Endpoint

pytestmark = [pytest.mark.root, pytest.mark.cluster]

V4, V6 = ("10.53.48.1", "10.53.48.2"), ("fd53:48::1", "fd53:48::2")
HOME4, HOME6 = "10.53.48.99", "fd53:48::99"
SLOW = 45.0
"""Seconds that a loaded machine may take for what is a matter of milliseconds, or of one TTL."""
PACKAGES = {
    "dig": "bind9-dnsutils", "nginx": "nginx", "haproxy": "haproxy", "unbound": "unbound", "dnsmasq": "dnsmasq-base",
}  # fmt: skip


class Site(NamedTuple):
    """The cluster, and the host where the programs run."""

    client: Host
    cluster: Cluster

    def announce(self, name: str, *endpoints: str, ttl: int = 600, text: bytes = b"") -> float:
        """Each endpoint a member. Returns the time before."""
        with self.client.enter(), Client(self.cluster.nodes[0].address.host) as user:
            began = time.monotonic()
            for number, endpoint in enumerate(endpoints):
                payload = Endpoint.of(endpoint)._replace(priority=number, weight=10, text=text).pack()
                user.announce_once(name, payload, ttl=ttl)
        return began

    def dig(self, *arguments: str) -> list[str]:
        """What dig prints, without empty lines."""
        done = self.client.run(["dig", "+tries=5", "+timeout=3", "+norecurse", *arguments], check=False)
        return [line for line in done.stdout.splitlines() if line]

    def short(self, *arguments: str) -> set[str]:
        return {line for line in self.dig(*arguments, "+short") if not line.startswith(";")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if missing := [package for program, package in PACKAGES.items() if not which(program)]:
        lacks(f"needs {' '.join(missing)} (Debian: apt-get install)")
    faces = {"dns": {"listen": ["0.0.0.0:53", "[::]:53"], "negative_ttl": 1}}
    with Lab("t-dns") as lab:
        places = places_in(lab, 2, ipv4=True, ipv6=True)
        client = lab.host("client", ipv4=f"{HOME4}/24", ipv6=f"{HOME6}/64")
        with Cluster(places, tmp_path_factory.mktemp("dns"), datapath="socket", settings=faces) as cluster:
            for node in cluster.nodes:
                wait_until(
                    lambda node=node: [face["up"] for face in node.status()["faces"]] == [True],
                    f"the face of {node.name}",
                    SLOW,
                )
            yield Site(client, cluster)


def which(program: str) -> str | None:
    return shutil.which(program, path="/usr/bin:/usr/sbin:/bin:/sbin")


def ended(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(SLOW)


# --- dig ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "way"),
    [
        (V4[0], "+notcp"),
        (V4[1], "+tcp"),
        (V4[0], "+cookie=0001020304050607"),
        (V6[0], "+nocookie"),
        (V6[1], "+noedns"),
        (V6[0], "+tcp"),
        (V6[1], "+cookie=0001020304050607"),
    ],
)
def test_dig_gets_the_zones_answers(site: Site, server: str, way: str) -> None:
    site.announce("dug", "10.0.0.7:80", "[fd00::7]:81", text=b"v=1")
    ask = f"@{server}", way
    assert site.short(*ask, "dug.kdht", "A") == {"10.0.0.7"}
    assert site.short(*ask, "DUG.kdht", "AAAA") == {"fd00::7"}
    assert site.short(*ask, "dug.kdht", "TXT") == {'"v=1"'}
    services = sorted(line.split() for line in site.short(*ask, "_http._tcp.dug.kdht", "SRV"))
    assert [service[:3] for service in services] == [["0", "10", "80"], ["1", "10", "81"]]
    assert site.short(*ask, services[0][3], "A") == {"10.0.0.7"}
    assert site.short(*ask, services[1][3], "AAAA") == {"fd00::7"}
    assert site.short(*ask, "kdht", "NS") == {"ns.kdht."}
    assert server in site.short(*ask, "ns.kdht", "A") | site.short(*ask, "ns.kdht", "AAAA")
    for name, kind, status in (
        ("none.kdht", "A", "NXDOMAIN"),
        ("dug.kdht", "MX", "NOERROR"),
        ("org", "A", "REFUSED"),
    ):
        said = "\n".join(site.dig(*ask, name, kind))
        assert f"status: {status}" in said
        assert ("hostmaster.kdht." in said) is (status != "REFUSED")
    assert "; Transfer failed." in site.dig(f"@{server}", "kdht", "AXFR")


@pytest.mark.parametrize("servers", [V4, V6])
def test_a_cookie_of_one_node_is_good_at_the_other(site: Site, servers: tuple[str, str]) -> None:
    many = [f"10.0.9.{number}:80" for number in range(1, 51)]
    site.announce("many", *many)
    ask = "many.kdht", "A", "+noall", "+comments", "+answer", "+ignore", "+nobadcookie"
    first = "\n".join(site.dig(f"@{servers[0]}", *ask, "+cookie=0001020304050607"))
    assert "status: BADCOOKIE" in first, "an answer this large needs a proof"
    assert " tc" in first
    cookie = next(line.split()[2] for line in first.splitlines() if line.startswith("; COOKIE"))
    second = site.dig(f"@{servers[1]}", *ask, f"+cookie={cookie}")
    assert f"; COOKIE: {cookie} (good)" in second
    assert {line.split()[-1] for line in second if "IN\tA" in line} == {each.split(":")[0] for each in many}
    bare = "\n".join(site.dig(f"@{servers[0]}", *ask, "+nocookie"))
    assert " tc" in bare
    assert "IN\tA" not in bare.replace(";many.kdht.", "")
    assert len(site.short(f"@{servers[0]}", "many.kdht", "A", "+nocookie")) == 50, "dig goes on by TCP"
    assert len(site.short(f"@{servers[0]}", "many.kdht", "A")) == 50, "dig goes on with its cookie"


def test_values_are_records_too(site: Site) -> None:
    with site.client.enter(), Client(V4[0]) as user:
        user.put("db", b"10.0.0.99:5432")
        user.put("motd", b"hello, world")
    assert site.short(f"@{V4[1]}", "db.kdht", "A") == {"10.0.0.99"}
    assert site.short(f"@{V6[1]}", "db.kdht", "SRV") == {"0 1 5432 0000000000000000.db.kdht."}
    assert site.short(f"@{V4[1]}", "motd.kdht", "TXT") == {'"hello, world"'}


# --- Resolvers ------------------------------------------------------------------------------


def test_getent_by_resolv_conf(site: Site, tmp_path: Path) -> None:
    site.announce("got", "10.0.0.7:80", "[fd00::7]:81")
    for servers in (V4, V6):
        conf = tmp_path / "resolv.conf"
        conf.write_text(
            "".join(f"nameserver {server}\n" for server in servers) + "search kdht\noptions timeout:3\n"
        )
        for name in ("got.kdht", "got"):
            mounted = f"mount --bind {conf} /etc/resolv.conf && exec getent ahosts {name}"
            said = site.client.run(["unshare", "--mount", "sh", "-c", mounted]).stdout
            assert {line.split()[0] for line in said.splitlines()} == {"10.0.0.7", "fd00::7"}


UNBOUND = """
server:
    interface: 127.0.0.1@5053
    username: ""
    chroot: ""
    directory: "{home}"
    pidfile: "{home}/pid"
    use-syslog: no
    do-daemonize: no
    num-threads: 1
    cache-max-negative-ttl: 1
    domain-insecure: "kdht."
    local-zone: "kdht." nodefault
stub-zone:
    name: "kdht."
    stub-addr: {v4}@53
    stub-addr: {v6}@53
remote-control:
    control-enable: no
"""


@pytest.fixture(params=["face", "unbound", "dnsmasq"])
def resolver(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """How to ask dig for names in the zone: the face itself, or a resolver that knows where the zone is."""
    if request.param == "face":
        yield (f"@{V4[0]}",)
        return
    if request.param == "unbound":
        (tmp_path / "conf").write_text(UNBOUND.format(home=tmp_path, v4=V4[0], v6=V6[1]))
        command, port = ["unbound", "-d", "-c", str(tmp_path / "conf")], "5053"
    else:
        options = "--no-daemon --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces --user=root --pid-file="
        servers = [f"--server=/kdht/{V4[0]}", f"--server=/kdht/{V6[1]}"]
        command, port = (
            ["dnsmasq", *options.split(), "--listen-address=127.0.0.1", "--port=5054", *servers],
            "5054",
        )
    with (tmp_path / "log").open("w") as log:
        process = site.client.popen([which(command[0]) or "", *command[1:]], stdout=log, stderr=log)
        try:
            ask = "@127.0.0.1", "-p", port, "+recurse"
            wait_until(lambda: site.short(*ask, "ns.kdht"), f"{request.param} to resolve", SLOW)
            yield ask
        finally:
            ended(process)


def test_a_service_that_dies_leaves_the_answers_at_its_ttl(site: Site, resolver: tuple[str, ...]) -> None:
    site.announce("dying", "10.0.0.7:80", "10.0.0.8:80")
    both = {"10.0.0.7", "10.0.0.8"}
    wait_until(lambda: site.short(*resolver, "dying.kdht", "A") == both, "both", SLOW)
    began = site.announce("dying", "10.0.0.7:80", ttl=4)
    wait_until(lambda: site.short(*resolver, "dying.kdht", "A") == {"10.0.0.8"}, "one to be gone", SLOW)
    assert time.monotonic() - began > 3, "it left before its time"
    assert len(site.short(*resolver, "_http._tcp.dying.kdht", "SRV")) == 1


def test_a_new_service_is_seen_through_a_negative_answer(
    site: Site, resolver: tuple[str, ...], request
) -> None:
    name = f"new-{request.node.callspec.id}"
    assert site.short(*resolver, f"{name}.kdht", "AAAA") == set()
    site.announce(name, "[fd00::9]:80")
    wait_until(lambda: site.short(*resolver, f"{name}.kdht", "AAAA") == {"fd00::9"}, "the new service", SLOW)


# --- Web servers ----------------------------------------------------------------------------


@pytest.fixture
def backends(site: Site, tmp_path: Path) -> Iterator[list[str]]:
    """Two web servers, one for each IP version; each says its endpoint."""
    endpoints = [f"{HOME4}:8071", f"[{HOME6}]:8072"]
    processes = []
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        root = tmp_path / port
        root.mkdir()
        (root / "index.html").write_text(endpoint)
        command = ["python3", "-m", "http.server", "--bind", host.strip("[]"), "--directory", str(root), port]
        processes.append(site.client.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    yield endpoints
    for process in processes:
        ended(process)


def fetched(site: Site, url: str) -> str:
    return site.client.run(["curl", "-sS", "--max-time", "5", url], check=False).stdout


NGINX = """
daemon off;
user root;
worker_processes 1;
pid {home}/pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    resolver {servers};
    resolver_timeout 3s;
    server {{
        listen 127.0.0.1:8080;
        location / {{
            set $web "web-nginx.kdht";
            proxy_pass http://$web:8071;
        }}
    }}
}}
"""


def test_nginx_resolves_its_upstream(site: Site, tmp_path: Path, backends: list[str]) -> None:
    conf = tmp_path / "nginx.conf"
    servers = f"{V4[0]} [{V6[1]}]"
    conf.write_text(NGINX.format(home=tmp_path, servers=servers))
    site.announce("web-nginx", backends[0])
    with (tmp_path / "log").open("w") as log:
        command = [which("nginx") or "", "-c", str(conf), "-p", str(tmp_path), "-e", "stderr"]
        process = site.client.popen(command, stdout=log, stderr=log)
        try:
            url = "http://127.0.0.1:8080/index.html"
            wait_until(lambda: fetched(site, url) == backends[0], "nginx to reach its upstream", SLOW)
            site.announce("web-nginx", backends[0], ttl=2)
            wait_until(lambda: "502 Bad Gateway" in fetched(site, url), "the name to be gone", SLOW)
            site.announce("web-nginx", backends[0])
            wait_until(lambda: fetched(site, url) == backends[0], "nginx to find it again", SLOW)
        finally:
            ended(process)
    assert "could not be resolved (3: Host not found)" in (tmp_path / "log").read_text()


HAPROXY = """
resolvers kdht
    nameserver one {way}{v4}:53
    nameserver two {way}{v6}:53
    accepted_payload_size 1232
    timeout resolve 500ms
    timeout retry 1s
    hold valid 1s
    hold nx 1s
    hold obsolete 1s
defaults
    mode http
    timeout connect 3s
    timeout client 5s
    timeout server 5s
frontend web
    bind 127.0.0.1:8082
    default_backend found
backend found
    balance roundrobin
    server-template web 1-4 _http._tcp.web-haproxy.kdht resolvers kdht init-addr none check inter 300ms
"""


@pytest.mark.parametrize("way", ["", "tcp@"])
def test_haproxy_discovers_servers_by_srv_records(
    site: Site, tmp_path: Path, backends: list[str], way: str
) -> None:
    conf = tmp_path / "haproxy.cfg"
    conf.write_text(HAPROXY.format(v4=V4[0], v6=V6[1], way=way))
    site.announce("web-haproxy", *backends)
    with (tmp_path / "log").open("w") as log:
        process = site.client.popen([which("haproxy") or "", "-db", "-f", str(conf)], stdout=log, stderr=log)
        try:

            def reached() -> set[str]:
                return {fetched(site, "http://127.0.0.1:8082/index.html") for _ in range(4)}

            wait_until(lambda: reached() == set(backends), "HAProxy to use both", SLOW)
            site.announce("web-haproxy", backends[0], ttl=2)
            wait_until(lambda: reached() == {backends[1]}, "HAProxy to use the other alone", SLOW)
        finally:
            ended(process)
