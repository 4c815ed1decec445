"""What the process of the faces tells kdhtd, a line of JSON each second on its standard output."""

import msgspec

STARTING = "it starts"
"""Why a face does not serve yet."""
SECONDS = 1.0
"""Between two reports."""


class FaceReport(msgspec.Struct):
    """One face."""

    listen: list[str]
    counters: dict[str, int] = {}
    why: str = ""
    """Why it does not serve; empty: it does."""


class FacesReport(msgspec.Struct):
    """All of them."""

    faces: dict[str, FaceReport]

    def pack(self) -> bytes:
        return msgspec.json.encode(self) + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "FacesReport":
        """Raises msgspec.ValidationError, msgspec.DecodeError."""
        return msgspec.json.decode(line, type=cls)
