"""What a message says of a file that cannot be opened, read or written: its name, the reason, and what to do."""

import errno
import os

_REMEDIES = {
    errno.EACCES: "ask as root or as the file's owner",
    errno.EPERM: "ask as root or as the file's owner",
    errno.EISDIR: "name a file in it",
    errno.ENOTDIR: "a part of the name is a file: name another",
    errno.ELOOP: "a link is there: name another file",
    errno.ENAMETOOLONG: "name it shorter",
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "make room there, or name another place",
    errno.EDQUOT: "make room there, or name another place",
    errno.EIO: "the disk may be failing: the kernel's log (dmesg) says more",
}


def about_file(path: str | os.PathLike[str], error: OSError, missing: str = "") -> str:
    """One line. `missing`: what to do if there is no such file. Without it: to make the directory, or to look at the name."""
    name = os.fspath(path)
    remedy = _REMEDIES.get(error.errno or 0, "")
    if error.errno == errno.ENOENT:
        remedy = missing or _of_missing(name)
    return ": ".join(part for part in (name, error.strerror or str(error), remedy) if part)


def _of_missing(name: str) -> str:
    directory = os.path.dirname(name) or "."
    if os.path.isdir(directory):
        return "is the name right?"
    return f"make the directory {directory} first, or name another"
