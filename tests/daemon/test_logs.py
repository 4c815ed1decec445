"""Log lines: one each, whatever is in them, with the fields as fields."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from daemons import KDHTD, free_port
from paths import ROOT

from kdht.errors import NoDaemon
from kdht.lab.wait import wait_until
from kdht.program.control_client import ask
from kdht.program.log_writer import LogWriter
from kdht.program.logs import JsonFormatter, TextFormatter, configure
from kdht.program.node_status import NodeStatus

TRAPS = {
    "plain": "a",
    "spaced": "a b",
    "quoted": 'say "hi"',
    "empty": "",
    "lines": "a\nb",
    "equals": "a=b",
    "number": 3,
}


def record(message: str = "it happened", **fields: object) -> logging.LogRecord:
    return logging.getLogger("kdht.test").makeRecord(
        "kdht.test", logging.WARNING, "file", 1, message, (), None, extra=fields
    )


def test_text_is_one_line_with_quoting_where_needed():
    line = TextFormatter().format(record(**TRAPS))
    assert "\n" not in line
    assert line.endswith(
        r'warning kdht.test: it happened plain=a spaced="a b" quoted="say \"hi\"" empty="" lines="a\nb" equals="a=b" number=3'
    )


def test_a_message_cannot_fake_a_line():
    assert "\n" not in TextFormatter().format(record("a\n2026 error kdht: forged"))


def test_json_has_every_field():
    got = json.loads(JsonFormatter().format(record(path=object, **TRAPS)))
    assert (
        got.items() >= {**TRAPS, "message": "it happened", "level": "warning", "logger": "kdht.test"}.items()
    )


def test_time_is_utc_with_milliseconds():
    made = record()
    made.created = 1_700_000_000.25
    assert TextFormatter().format(made).startswith("2023-11-14T22:13:20.250Z ")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_traceback_stays_on_the_line(formatter):
    try:
        raise ValueError("inner")
    except ValueError as error:
        made = record()
        made.exc_info = (ValueError, error, error.__traceback__)
    line = formatter.format(made)
    assert "\n" not in line
    assert "ValueError: inner" in line


@pytest.fixture
def pipe():
    """Its ends, both of which a test may close."""
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        with suppress(OSError):
            os.close(fd)


@pytest.fixture
def python_hooks(monkeypatch):
    """All that `configure` changes, put back at the end."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    loggers = [logging.getLogger(name) for name in ("kdht", "asyncio", "py.warnings")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    logging.captureWarnings(False)
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.level, each.propagate = handlers, level, propagate


def test_the_log_level_is_respected(pipe, python_hooks):
    writer = configure("warning", "text", pipe[1])
    logging.getLogger("kdht.x").info("not this")
    logging.getLogger("kdht.x").warning("this")
    writer.drain(5.0)
    said = os.read(pipe[0], 4096)
    assert b"not this" not in said
    assert b"this" in said


def test_a_dead_thread_and_an_ignored_error_are_lines_too(pipe, python_hooks):
    writer = configure("warning", "text", pipe[1])
    dies = threading.Thread(target=lambda: 1 // 0, name="it")
    dies.start()
    dies.join()
    writer.drain(5.0)
    assert b"a thread died of=it traceback=" in os.read(pipe[0], 1 << 16)


# --- Whoever reads them stalls -----------------------------------------------------------


def line(writer: LogWriter, text: str) -> None:
    writer.handle(record(text))


def test_a_stalled_log_reader_blocks_nothing_and_losses_are_counted(pipe):
    writer = LogWriter(pipe[1])
    writer.setFormatter(TextFormatter())
    writer.start()
    began = time.monotonic()
    for _ in range(20_000):
        line(writer, "x" * 100)
    writer.drain(0.1)
    assert time.monotonic() - began < 10
    assert 0 < writer.lost < 20_000
    said = b""
    while b"log lines were lost" not in said:
        said += os.read(pipe[0], 1 << 16)
    assert f"log lines were lost lines={writer.lost}".encode() in said
    assert said.count(b"it happened") == 0
    assert said.count(b"x" * 100) == 20_000 - writer.lost


def test_a_reader_that_is_gone_is_survived(pipe):
    writer = LogWriter(pipe[1])
    writer.start()
    os.close(pipe[0])
    line(writer, "lost")
    writer.drain(5.0)
    assert writer.lost == 1


def test_a_full_disk_is_survived():
    with open("/dev/full", "wb") as full:
        writer = LogWriter(full.fileno())
        writer.start()
        line(writer, "lost")
        writer.drain(5.0)
        assert writer.lost == 1


def test_early_log_lines_are_written_at_the_end(pipe):
    writer = LogWriter(pipe[1])
    line(writer, "first")
    writer.drain(1.0)
    assert os.read(pipe[0], 100) == b"first\n"


def full_pipe() -> tuple[int, int]:
    """Both ends of a pipe that takes nothing more."""
    read, write = os.pipe()
    # Opened anew: O_NONBLOCK is to hold for this filling alone.
    filling = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(filling, b"x" * 4096)
    os.close(filling)
    return read, write


def serves(socket: Path) -> bool:
    try:
        return ask(socket, "status", NodeStatus).ready
    except NoDaemon:  # not yet: a moment lies between a socket's name and its listening
        return False


@pytest.mark.parametrize("kind", ["stalled", "gone", "full disk"])
def test_a_node_whose_log_nobody_reads_serves_and_stops(kind, tmp_path):
    read, write = full_pipe() if kind != "full disk" else (-1, os.open("/dev/full", os.O_WRONLY))
    if kind == "gone":
        os.close(read)
    port = free_port("127.0.0.1")
    socket = tmp_path / "kdhtd.sock"
    command = [*KDHTD, "--dev", "--listen", f"127.0.0.1:{port}", "--data-dir", tmp_path / "data", "--control", socket,
               "--log-level", "debug"]  # fmt: skip
    node = subprocess.Popen([os.fspath(part) for part in command], cwd=ROOT, stderr=write)
    try:
        wait_until(lambda: serves(socket), "the node to serve")
        for _ in range(50):
            node.send_signal(signal.SIGHUP)  # each is a line in the log
            ask(socket, "status", NodeStatus)
        if kind != "stalled":
            status = ask(socket, "status", NodeStatus)
            assert status.log_lines_lost > 0
            assert "log lines were lost" in " ".join(status.warnings)
        node.terminate()
        assert node.wait(10) == 0
    finally:
        node.kill()
        node.wait()
        os.close(write)
        if kind == "stalled":
            os.close(read)
