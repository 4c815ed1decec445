"""kdhtctl signs, hashes and seals values, and makes the keys for it."""

import json
import stat

import pytest
from ctl import Ctl, bad, good
from daemons import KDHTCTL, DevNode, free_port, run


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    node = DevNode(tmp_path_factory.mktemp("node") / "n1", f"127.0.0.1:{free_port('127.0.0.1')}").wait_ready()
    yield node
    node.close()


@pytest.fixture
def ctl(node):
    return Ctl(node.control)


def key(*arguments):
    return run([*KDHTCTL, "key", *arguments], text=False)


@pytest.fixture
def pen(tmp_path):
    good(key("new", tmp_path / "pen", "--for", "signing"))
    return tmp_path / "pen"


@pytest.fixture
def seal(tmp_path):
    good(key("new", tmp_path / "seal", "--for", "sealing"))
    return tmp_path / "seal"


def test_keys_are_made_and_shown_without_their_secret(pen, seal):
    for path, field in ((pen, "public_key"), (seal, "id")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        data = json.loads(good(key("show", path, "--json")))
        assert data[field] in good(key("show", path)).decode()
        assert path.read_text().strip().partition(".")[2][:40] not in str(data)
    bad(key("new", pen, "--for", "signing"), 2, "already exists")


def test_a_signed_value_is_put_and_read(ctl, pen):
    public = json.loads(good(key("show", pen, "--json")))["public_key"]
    assert public in good(ctl("put", "--sign", pen, "news", "signed")).decode()
    assert good(ctl("get", "--signed-by", public, "news")) == b"signed"
    assert json.loads(good(ctl("get", "--signed-by", public, "news", "--json")))["value"] == "signed"
    bad(ctl("get", "--signed-by", public, "other"), 7, "no value")


def test_an_immutable_value_is_put_and_read(ctl):
    made = json.loads(good(ctl("put", "--immutable", "for ever", "--json")))["key"]
    assert good(ctl("get", "--immutable", made)) == b"for ever"


def test_a_sealed_value_is_put_and_read(ctl, seal, pen):
    good(ctl("put", "--seal", seal, "secret", "nobody sees"))
    assert good(ctl("get", "--seal", seal, "secret")) == b"nobody sees"
    assert b"nobody" not in good(ctl("get", "secret"))
    bad(ctl("get", "--seal", pen, "secret"), 2, "is a key for signing, not for sealing")
    seal.chmod(0o644)
    done = ctl("get", "--seal", seal, "secret")
    assert done.stdout == b"nobody sees"
    assert b"can be read by other users: chmod 600" in done.stderr


@pytest.mark.parametrize("arguments", [
    ("put", "--immutable", "a", "b"),
    ("put", "--immutable", "--if-version", "0", "a"),
    ("put",),
    ("put", "key"),
    ("get", "--immutable", "abc"),
    ("get", "--signed-by", "abc", "name"),
    ("get", "--immutable", "--signed-by", "00" * 32, "name"),
])  # fmt: skip
def test_impossible_arguments_are_one_line(ctl, arguments):
    bad(ctl(*arguments), 2)


def test_a_name_that_is_too_long_for_a_signer_is_one_line(ctl, pen, seal):
    bad(ctl("put", "--sign", pen, "x" * 65, "value"), 2, "at most 64 bytes")
    bad(ctl("put", "--seal", seal, "--sign", pen, "x", "value"), 2, "use another client")
