# cython: language_level=3, boundscheck=False, wraparound=False
"""Whether bytes are one value in canonical bencoding, as BEP 3 has it. Layer 0; no I/O, no GIL while it
reads.

Canonical: numbers and lengths without leading zeros, no "-0", the keys of a dictionary sorted and different,
nothing behind the value. `kdht.wire.bencode` decodes the same language.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

cdef enum:
    MAX_DEPTH = 32  # lists and dictionaries in one another; kdht.wire.bencode has the same limit
    MAX_DIGITS = 7  # of a length: more bytes than any message has
    MAX_NUMBER = 1024  # bytes of a number, its "i" and "e" included; kdht.wire.bencode has the same limit
    LIST = 0
    BEFORE_KEY = 1
    BEFORE_VALUE = 2


cdef struct Container:
    int state
    Py_ssize_t key  # where the last key begins; -1: there was none
    Py_ssize_t key_length


cdef Py_ssize_t string_length(const uint8_t *at, Py_ssize_t *i, Py_ssize_t length) noexcept nogil:
    """Read "<digits>:" at `i` and give the number, -1 if the string is not whole. `i` moves behind the
    colon."""
    cdef Py_ssize_t number = 0, digits = 0, first = i[0]
    while i[0] < length and c'0' <= at[i[0]] <= c'9' and digits <= MAX_DIGITS:
        number = number * 10 + (at[i[0]] - c'0')
        i[0] += 1
        digits += 1
    if digits == 0 or digits > MAX_DIGITS or (digits > 1 and at[first] == c'0'):
        return -1
    if i[0] >= length or at[i[0]] != c':':
        return -1
    i[0] += 1
    return number if number <= length - i[0] else -1


cdef bint skip_number(const uint8_t *at, Py_ssize_t *i, Py_ssize_t length) noexcept nogil:
    """Move `i` behind the "i<number>e" that begins there. False: it is none."""
    cdef Py_ssize_t first, begin = i[0]
    cdef bint negative
    i[0] += 1
    negative = i[0] < length and at[i[0]] == c'-'
    i[0] += negative
    first = i[0]
    while i[0] < length and c'0' <= at[i[0]] <= c'9':
        i[0] += 1
    if i[0] == first or i[0] >= length or at[i[0]] != c'e':
        return False
    if at[first] == c'0' and (i[0] - first > 1 or negative):
        return False
    i[0] += 1
    return i[0] - begin <= MAX_NUMBER


cdef bint take_key(const uint8_t *at, Container *within, Py_ssize_t key, Py_ssize_t length) noexcept nogil:
    """Note a dictionary's next key. False: it is not greater than the last one."""
    cdef Py_ssize_t common
    cdef int order
    if within.key >= 0:
        common = min(length, within.key_length)
        order = memcmp(at + within.key, at + key, common)
        if order > 0 or (order == 0 and length <= within.key_length):
            return False
    within.key, within.key_length, within.state = key, length, BEFORE_VALUE
    return True


cdef bint is_canonical(const uint8_t *at, Py_ssize_t length) noexcept nogil:
    cdef Container containers[MAX_DEPTH]
    cdef Container *within = NULL
    cdef Py_ssize_t i = 0, depth = 0, size
    while i < length:
        if c'0' <= at[i] <= c'9':
            size = string_length(at, &i, length)
            if size < 0:
                return False
            i += size
            if within is not NULL and within.state == BEFORE_KEY:
                if not take_key(at, within, i - size, size):
                    return False
                continue
        elif within is not NULL and at[i] == c'e' and within.state != BEFORE_VALUE:
            i += 1
            depth -= 1
            within = &containers[depth - 1] if depth else NULL
        elif within is not NULL and within.state == BEFORE_KEY:
            return False
        elif at[i] == c'i':
            if not skip_number(at, &i, length):
                return False
        elif (at[i] == c'l' or at[i] == c'd') and depth < MAX_DEPTH:
            within = &containers[depth]
            within.state, within.key = (LIST if at[i] == c'l' else BEFORE_KEY), -1
            depth += 1
            i += 1
            continue
        else:
            return False
        # A value has ended.
        if within is NULL:
            return i == length
        if within.state == BEFORE_VALUE:
            within.state = BEFORE_KEY
    return False


def is_bencoded(data: bytes) -> bool:
    """Whether `data` is one canonical value."""
    cdef const uint8_t *at = data
    cdef Py_ssize_t length = len(data)
    cdef bint good
    with nogil:
        good = is_canonical(at, length)
    return good
