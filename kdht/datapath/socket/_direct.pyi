"""The typed surface of _direct.pyx."""

class Direct:
    """Takes messages from the socket's loop before they are Datagrams. Only Cython makes and calls one."""
