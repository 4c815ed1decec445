"""The container images: built by podman of the package and a bare Debian, and run as the Containerfile and compose.yaml say.

No registry is asked: the base is build/debian/tree.tar. The containers share the network of a host of the laboratory.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ci import lacks
from installed import DEBIAN_TREE, debian_package
from paths import ROOT

from kdht.lab.netns import Host, Lab
from kdht.lab.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

LIMITS = ["--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
"""So that a machine which is a container itself may run some."""
CACHE = Path("/var/lib/containers")
"""podman's builder writes notes about layers there, whatever its other places are."""
SECRET = "0123456789abcdef0123"
NO_SECCOMP = "seccomp=unconfined"


class Podman:
    """With images and containers of its own, below `home`."""

    def __init__(self, home: Path, host: Host) -> None:
        self._host = host
        self._running: list[str] = []
        places = {"root": "images", "runroot": "run", "tmpdir": "tmp"}
        self._command = ["podman", *(f"--{option}={home / name}" for option, name in places.items())]
        self._command += ["--cgroup-manager=cgroupfs", "--events-backend=none"]

    def __call__(self, *arguments: str, check: bool = True, timeout: float = 60) -> str:
        done = self._host.run([*self._command, *arguments], check=check, timeout=timeout, cwd="/")
        return done.stdout + ("" if check else done.stderr)

    def build(self, target: str, package: Path) -> str:
        """The image of this target: its name."""
        name = f"localhost/{target}"
        wanted = ["--build-arg=BASE=localhost/bare", f"--build-arg=PACKAGE={package.name}"]
        context = ["--file", str(ROOT / "Containerfile"), str(package.parent)]
        how = ["--isolation=chroot", "--layers", "--pull-never"]
        self("build", "--quiet", *how, *wanted, f"--target={target}", f"--tag={name}", *context, timeout=400)
        return name

    def start(self, name: str, *arguments: str) -> None:
        self._running.append(name)
        self("run", "--detach", f"--name={name}", "--pull=never", *LIMITS, *arguments)

    def end(self, name: str) -> int:
        """Stop it as an orchestrator does. Gives its exit code."""
        self("stop", "--time=20", name)
        return int(self("inspect", "--format={{.State.ExitCode}}", name))

    def remove_all(self) -> None:
        for name in self._running:
            self("rm", "--force", "--time=5", name, check=False)
        self._running.clear()

    def ready(self, name: str) -> dict[str, Any]:
        """Its status, once it says that it is ready."""
        said = ""

        def is_ready() -> bool:
            nonlocal said
            said = self("exec", name, "kdhtctl", "status", "--json", check=False)
            return '"ready": true' in said

        wait_until(is_ready, f"the node in {name}", 60)
        status: dict[str, Any] = json.loads(said)
        return status


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("t-image") as lab:
        lab.host("n1", ipv4="10.0.0.1/24")
        lab.host("client", ipv4="10.0.0.9/24")
        lab.let_xdp_send()
        yield lab


@pytest.fixture(scope="module")
def images(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    if not shutil.which("podman"):
        lacks("needs podman")
    if not DEBIAN_TREE.exists():
        lacks("needs build/debian/tree.tar, which make test makes as root (scripts/debian-tree)")
    home = tmp_path_factory.mktemp("images")
    was_there = CACHE.exists()
    podman = Podman(home, lab.hosts["n1"])
    podman("import", "--quiet", str(DEBIAN_TREE), "localhost/bare", timeout=280)
    package = debian_package(tmp_path_factory)
    for target in ("socket", "packets"):
        podman.build(target, package)
    yield podman
    podman("system", "reset", "--force", check=False)
    # Layers are mounts: only podman may take them away.
    shutil.rmtree(home, ignore_errors=True)
    if not was_there:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture
def podman(images: Podman) -> Iterator[Podman]:
    yield images
    images.remove_all()


def configuration(directory: Path, listen: str, kind: str) -> Path:
    """A directory for /etc/kdht."""
    directory.mkdir()
    (directory / "kdhtd.toml").write_text(
        f'[node]\nlisten = ["{listen}"]\n[[key]]\nsecret = "{SECRET}"\n[access]\nwrites = "open"\n'
        f'[datapath]\nkind = "{kind}"\n'
    )
    return directory


def run_options(image: str) -> list[str]:
    """What the Containerfile says to run this image with, without its volumes and the image's name."""
    text = re.sub(r"\\\n#", " ", (ROOT / "Containerfile").read_text())
    (line,) = re.findall(rf"^#\s+podman run (.*) {image}$", text, re.MULTILINE)
    words = shlex.split(line)
    volumes = [at for at, word in enumerate(words) if word == "-v"]
    return [word for at, word in enumerate(words) if at not in volumes and at - 1 not in volumes]


def volumes(**at: Path) -> list[str]:
    places = {"etc": "/etc/kdht:ro", "data": "/var/lib/kdht", "bpf": "/sys/fs/bpf", "host": "/run/kdht-host"}
    return [f"--volume={path}:{places[name]}" for name, path in at.items()]


def test_a_node_on_sockets_runs_without_rights(podman: Podman, tmp_path: Path) -> None:
    etc = configuration(tmp_path / "etc", "127.0.0.1", "socket")
    podman.start("plain", *run_options("kdht"), f"--volume={etc}:/etc/kdht:ro", "localhost/socket")
    assert podman.ready("plain")["capabilities"] == {}
    assert podman("exec", "plain", "id", "--user").strip() != "0"
    podman("exec", "plain", "kdhtctl", "put", "greeting", "hello")
    assert podman("exec", "plain", "kdhtctl", "get", "greeting").strip() == "hello"
    assert podman.end("plain") == 0


@pytest.mark.parametrize("kind", ["nfqueue", "ebpf"])
def test_a_node_in_the_packet_path_has_three_capabilities(
    podman: Podman, lab: Lab, kind: str, tmp_path: Path
) -> None:
    etc = configuration(tmp_path / "etc", "10.0.0.1", kind)
    for name in ("data", "host"):
        (tmp_path / name).mkdir()
    mounts = volumes(etc=etc, data=tmp_path / "data", host=tmp_path / "host", bpf=Path("/sys/fs/bpf"))
    podman.start("packets", *run_options("kdht-packets"), *mounts, "localhost/packets")
    assert set(podman.ready("packets")["capabilities"]) == {"CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"}
    client = lab.hosts["client"]
    ctl = [str(Path(sys.executable).with_name("kdhtctl"))]
    client.run([*ctl, "put", "--node", "10.0.0.1", kind, "a value"])
    assert client.run([*ctl, "get", "--node", "10.0.0.1", kind]).stdout.strip() == "a value"
    packets = json.loads(podman("exec", "packets", "kdhtctl", "stats", "--json"))["packets"]
    assert sum(packets[kind].values()) > 0
    assert podman.end("packets") == 0
    assert not list((tmp_path / "host").iterdir())


def test_a_filter_that_forbids_bpf_is_named(podman: Podman, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    forbidden = [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": forbidden}))
    etc = configuration(tmp_path / "etc", "10.0.0.1", "ebpf")
    options = [f"seccomp={profile}" if word == NO_SECCOMP else word for word in run_options("kdht-packets")]
    assert f"seccomp={profile}" in options
    mounts = volumes(etc=etc, bpf=Path("/sys/fs/bpf"))
    said = podman("run", "--rm", "--pull=never", *LIMITS, *options, *mounts, "localhost/packets", check=False)
    assert "a seccomp filter of the container or service forbids bpf(2)" in said


def test_the_compose_files_nodes_are_a_cluster(podman: Podman, lab: Lab, tmp_path: Path) -> None:
    """Its commands, on one host with the three addresses: no plugin for container networks is needed."""
    services = yaml.safe_load((ROOT / "contrib/compose/compose.yaml").read_text())["services"]
    etc = tmp_path / "etc"
    etc.mkdir()
    made = services["secret"]
    entry = json.dumps(made["entrypoint"])
    how = ["--network=none", "--user=0", f"--entrypoint={entry}", f"--volume={etc}:/etc/kdht"]
    podman("run", "--rm", "--pull=never", *LIMITS, *how, "localhost/socket", *made["command"])
    nodes = [name for name in services if name != "secret"]
    for name in nodes:
        command = services[name]["command"]
        lab.hosts["n1"].add_address("lo", f"{services[name]['networks']['kdht']['ipv4_address']}/32")
        # On one host the control sockets need names of their own; so do the directories.
        podman.start(
            name,
            "--network=host",
            "--cap-drop=all",
            f"--volume={etc}:/etc/kdht:ro",
            "localhost/socket",
            *command,
        )
    for name in nodes:
        wait_until(lambda name=name: podman.ready(name)["contacts"] == 2, f"{name} to know both others", 60)
        podman("exec", name, *services[name]["healthcheck"]["test"][1:])
    podman("exec", "one", "kdhtctl", "put", "--node", "10.53.48.11", "greeting", "hello")
    assert podman("exec", "three", "kdhtctl", "get", "--node", "10.53.48.13", "greeting").strip() == "hello"
