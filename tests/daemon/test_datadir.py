"""The data directory: one daemon at a time, whole files, clear words for what is damaged."""

import os

import pytest

from kdht.daemon import datadir
from kdht.daemon.datadir import DataDir
from kdht.errors import StorageDamaged, StorageError, StorageLocked
from kdht.program.files import write_atomically
from kdht.wire import Address, Contact

CONTACTS = [
    Contact(bytes(range(20)), *Address.of("10.0.0.1", 5348)),
    Contact(bytes(range(1, 21)), *Address.of("fd00::1", 99)),
]


@pytest.fixture
def data(tmp_path):
    data = DataDir.open(tmp_path / "deep" / "data")
    yield data
    data.close()


def test_an_id_is_kept_until_it_is_forgotten(data):
    assert data.node_id() is None
    data.keep_node_id(bytes(range(20)))
    assert data.node_id() == bytes(range(20))
    assert (data.path / "node_id").read_text() == bytes(range(20)).hex() + "\n"
    data.forget_node_id()
    data.forget_node_id()
    assert data.node_id() is None


def test_a_data_directory_has_one_daemon_at_a_time(data):
    with pytest.raises(StorageLocked, match=f"process {os.getpid()}"):
        DataDir.open(data.path)
    data.close()
    data.close()
    DataDir.open(data.path).close()


def test_the_directory_is_private(data):
    assert data.path.stat().st_mode & 0o077 == 0
    data.keep_node_id(bytes(range(20)))
    assert (data.path / "node_id").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "00", "x" * 40, "00" * 21, "\udcff"])
def test_an_invalid_node_id_is_refused(data, text):
    (data.path / "node_id").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StorageDamaged, match="remove it"):
        data.node_id()


def test_contacts_come_back(data):
    assert data.load_contacts() == []
    data.save_contacts(CONTACTS)
    assert data.load_contacts() == CONTACTS


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '[{"id": "00"}]', '[{"id": "00", "host": "10.0.0.1", "port": 1}]', '[{"id": "' + "0" * 40
     + '", "host": "name", "port": 1}]', "\xff", '[{"id": "zz", "host": "10.0.0.1", "port": 1}]'],
)  # fmt: skip
def test_damaged_contacts_are_no_contacts(data, text, caplog):
    (data.path / "contacts").write_bytes(text.encode("latin-1"))
    with caplog.at_level("WARNING", logger="kdht"):
        assert data.load_contacts() == []


def test_a_path_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(StorageError, match="File exists"):
        DataDir.open(tmp_path / "data")
    with pytest.raises(StorageError, match="Not a directory"):
        DataDir.open(tmp_path / "data" / "below")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_of_another_machine_is_noticed_once(data, tmp_path, monkeypatch):
    machine = tmp_path / "machine-id"
    monkeypatch.setattr(datadir, "MACHINE_ID", machine)
    assert not data.comes_from_elsewhere(), "a container has no ID"
    machine.write_text("one\n")
    assert not data.comes_from_elsewhere()
    assert not data.comes_from_elsewhere()
    assert "one" not in (data.path / "machine").read_text()
    machine.write_text("another\n")
    assert data.comes_from_elsewhere()
    assert not data.comes_from_elsewhere()
