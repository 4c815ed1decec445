"""The HTTP face: values and sets for who has no library but curl (docs/faces.md, docs/design/http.md)."""

from kdht.faces.http.face import make

__all__ = ["make"]
