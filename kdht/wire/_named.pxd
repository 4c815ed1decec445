# cython: language_level=3
"""Fields of NamedTuples without Python."""

from cpython.tuple cimport PyTuple_GET_ITEM


cdef inline object item(object named, Py_ssize_t place):
    """A field of a NamedTuple, by its place; nothing is checked."""
    return <object>PyTuple_GET_ITEM(named, place)
