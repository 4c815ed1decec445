"""Log lines: one each, whatever is in them, with the fields as fields."""

import json
import logging

import pytest

from kdht.daemon.process.logs import JsonFormatter, TextFormatter, configure

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


def test_the_log_level_is_respected(capsys):
    logger = logging.getLogger("kdht")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        configure("warning", "text")
        logging.getLogger("kdht.x").info("not this")
        logging.getLogger("kdht.x").warning("this")
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    said = capsys.readouterr().err
    assert "not this" not in said
    assert "this" in said
