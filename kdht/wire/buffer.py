"""What bytes are given as."""

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
