"""The types in which bytes are given."""

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
