"""The example configurations and the container file: what they name exists, and kdhtd accepts them."""

import re
from pathlib import Path

import pytest
from daemons import KDHTD
from paths import ROOT

from kdht.config.schema import Config, load
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


# --- The container file; no engine runs in the tests, so it is read only ------------------


def test_the_container_file_is_of_two_stages_that_fit() -> None:
    text = (ROOT / "Containerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    words = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT"}
    assert {line.split()[0] for line in lines} == words
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM docker.io/library/debian:12-slim AS build",
        "FROM docker.io/library/debian:12-slim",
    ]
    (prefix, stage) = re.findall(r"make install PREFIX=(\S+) DESTDIR=(\S+)", text)[0]
    assert f"COPY --from=build {stage}{prefix} {prefix}" in text
    assert f'ENTRYPOINT ["{prefix}/bin/kdhtd", "--datapath", "socket"]' in text
    assert "USER kdht" in text
