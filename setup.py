"""The extensions, and nothing else: metadata and tool settings are in pyproject.toml."""

from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

NAMES = [
    "kdht._shared",
    "kdht._tags",
    "kdht._buckets",
    "kdht._packet",
    "kdht._routing",
    "kdht.datapath._udp",
    "kdht.datapath._socket",
    "kdht.datapath._nfqueue",
]
HEADERS = sorted(glob("include/*.h"))


def extension(name: str) -> Extension:
    return Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        include_dirs=["include"],
        depends=HEADERS,
        extra_compile_args=["-O3", "-Wall", "-Wno-unreachable-code"],
    )


setup(
    ext_modules=cythonize(
        [extension(name) for name in NAMES],
        language_level=3,
        compiler_directives={"boundscheck": False, "wraparound": False, "freethreading_compatible": False},
    )
)
