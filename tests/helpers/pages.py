"""Asking a daemon's pages as a browser or Prometheus would."""

import urllib.error
import urllib.request
from email.message import Message
from typing import NamedTuple


class Said(NamedTuple):
    status: int
    body: str
    headers: Message


def ask(url: str, **headers: str) -> Said:
    """What a GET of `url` says, whatever its status."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return Said(answer.status, answer.read().decode(), answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return Said(error.code, error.read().decode(), error.headers)
