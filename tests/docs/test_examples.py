"""The example configurations and the container file: what they name exists, and kdhtd accepts them."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from daemons import KDHTD
from installed import PROGRAMS
from paths import ROOT

from kdht.config.reading import load
from kdht.config.schema import Config
from kdht.config.settings import resolve
from kdht.lab.netns import Lab

EXAMPLES = sorted((ROOT / "contrib/examples").glob("*.toml"))
ROLES = {"first", "member", "edge", "anycast", "ebpf"}
SECRETS = ("/etc/kdht/secret", "/etc/kdht/access-secret")


def with_secret(example: Path, directory: Path) -> Path:
    """The example with secrets that are there."""
    text = example.read_text()
    for name in SECRETS:
        secret = directory / Path(name).name
        secret.write_text("sixteen bytes or more\n")
        secret.chmod(0o600)
        text = text.replace(f'"{name}"', f'"{secret}"')
    text = text.replace('group = "kdht"', 'group = "root"')  # the user is made by the installation
    path = directory / example.name
    path.write_text(text)
    return path


def test_there_is_one_for_each_role() -> None:
    assert {example.stem for example in EXAMPLES} == ROLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_configuration(example: Path, tmp_path: Path) -> None:
    settings = resolve(load(with_secret(example, tmp_path)))
    assert settings.warnings == ()
    assert isinstance(settings.config, Config)
    assert settings.access.writes == "token"


@pytest.mark.root
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_works_on_its_host(example: Path, lab: Lab, tmp_path: Path) -> None:
    config = load(with_secret(example, tmp_path))
    own = config.node.advertise[0].at(1) if config.node.advertise else config.node.listen[0].address
    host = lab.host("n", ipv4=f"{own.host}/24")
    for shared in config.node.anycast:
        host.add_address("lo", f"{shared.at(1).host}/32")
    paths = ["--data-dir", str(tmp_path / "data"), "--control", str(tmp_path / "socket")]
    done = host.run([*KDHTD, "--check", "--config", str(tmp_path / example.name), *paths], cwd=ROOT)
    assert done.stderr == ""
    kind = {"edge": "sockets", "ebpf": "XDP"}.get(example.stem, "diverts packets from eth0")
    assert kind in done.stdout


# --- Containers ---------------------------------------------------------------------------


def test_the_container_file_installs_the_package_with_its_programs() -> None:
    text = (ROOT / "Containerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)", text, re.MULTILINE)
    assert stages == [
        ("${BASE}", "build"),
        ("${BASE}", "installed"),
        *(("installed", name) for name in ("packets", "socket")),
    ]
    assert "make deb" in text
    for entry in re.findall(r'^ENTRYPOINT \["/usr/bin/([^"]+)"', text, re.MULTILINE):
        assert entry in PROGRAMS
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == [
        "kdht"
    ]  # the last stage's, which is the usual one


def manifests(name: str) -> dict[str, Any]:
    """By kind."""
    documents = yaml.safe_load_all((ROOT / f"contrib/kubernetes/{name}.yaml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize(("name", "kind"), [("sockets", "StatefulSet"), ("packets", "DaemonSet")])
def test_kubernetes_manifests_fit_the_schemas_of_its_api(name: str, kind: str) -> None:
    found = manifests(name)
    assert set(found) == {"Service", "ConfigMap", "PodDisruptionBudget", kind}
    for manifest in found.values():
        kubernetes_validate.validate(manifest, "1.31", strict=True)
    (container,) = found[kind]["spec"]["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["kdhtctl", "drain"]


@pytest.mark.parametrize("name", ["sockets", "packets"])
def test_kubernetes_configurations_are_kdhtds(name: str, tmp_path: Path) -> None:
    text = manifests(name)["ConfigMap"]["data"]["kdhtd.toml"]
    for secret in ("secret", "access-secret"):
        (tmp_path / secret).write_text("sixteen bytes or more\n")
        (tmp_path / secret).chmod(0o600)
    config = tmp_path / "kdhtd.toml"
    config.write_text(text.replace("/etc/kdht-secret", str(tmp_path)))
    assert resolve(load(config)).warnings == ()


def test_the_compose_file_has_three_nodes_that_know_the_first() -> None:
    services = yaml.safe_load((ROOT / "contrib/compose/compose.yaml").read_text())["services"]
    nodes = {name: each for name, each in services.items() if "healthcheck" in each}
    assert list(nodes) == ["one", "two", "three"]
    first, *others = (each["command"] for each in nodes.values())
    assert [command[2:] for command in others] == [["--bootstrap", first[1]]] * 2
    for each in nodes.values():
        assert each["networks"]["kdht"]["ipv4_address"] == each["command"][1]
