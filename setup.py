"""The extensions, the BPF objects and the index page's text: other metadata and tool settings are in pyproject.toml.

What the eBPF datapath and signed records need is optional: where clang, libbpf or libsodium is missing
the build says so and leaves that part out. The rest is installed.
"""

import os
import platform
import re
import subprocess
import sysconfig
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError

NAMES = [
    "kdht.wire._shared",
    "kdht.wire._bencode",
    "kdht.core._tags",
    "kdht.core._buckets",
    "kdht.core._prefixes",
    "kdht.core._packet",
    "kdht.core._message",
    "kdht.core._reply",
    "kdht._routing",
    "kdht.datapath.socket._udp",
    "kdht.datapath.socket._outbox",
    "kdht.storage._hot",
    "kdht.storage._cache",
    "kdht.storage._members_cache",
    "kdht.datapath.socket._rates",
    "kdht.datapath.socket._backlog",
    "kdht.datapath.socket._seen",
    "kdht.datapath.socket._datagrams",
    "kdht.datapath.socket._direct",
    "kdht.datapath.socket._socket",
    "kdht.datapath.nfqueue._nfqueue",
    "kdht.storage._reader",
    "kdht.storage._known_keys",
    "kdht.storage._change",
    "kdht.storage._group_writer",
    "kdht._histogram",
    "kdht.node._changes",
    "kdht.node._timers",
    "kdht.node._roundtrip",
    "kdht.node.repair._key_sets",
    "kdht.node.repair._changed",
    "kdht.node.replicas._clock",
    "kdht.node.replicas._recent",
    "kdht.node.replicas._trips",
    "kdht.node.replicas._turns",
    "kdht.node.replicas._store_requests",
    "kdht.node.replicas._common_jobs",
    "kdht.node.replicas._common_writes",
    "kdht.node.replicas._direct_writes",
    "kdht.node.replicas._fetch_requests",
    "kdht.node.replicas._common_reads",
    "kdht.node.replicas._direct_reads",
    "kdht.client._bulk",
    "kdht.lab._overlay",
    "kdht.lab._repeat",
    "kdht.replay._capture",
    "kdht.replay._engine",
]
OPTIONAL = {
    "kdht.datapath.ebpf._ebpf": "the eBPF datapath needs clang and libbpf (Debian: apt-get install clang libbpf-dev)",
    "kdht.wire._sodium": "signed records and sealed values need libsodium (Debian: apt-get install libsodium-dev)",
}
"""What may be left out, and what it needs."""
HEADERS = sorted(glob("include/*.h"))
BPF_SUFFIX = ".bpf.o"
BPF_FLAGS = ["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-fno-strict-aliasing", "-Wall", "-Iinclude"]
if platform.machine() in ("x86_64", "i686"):
    BPF_FLAGS.append("-DKDHT_LOADS_STAY_IN_ORDER")  # other machines need fences (bpf/table.h)
NEEDS = OPTIONAL["kdht.datapath.ebpf._ebpf"]


def extension(name: str) -> Extension:
    return Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        include_dirs=["include"],
        depends=HEADERS,
        extra_compile_args=["-O3", "-Wall", "-Wno-unreachable-code"],
    )


class BpfObject(Extension):
    """A program for the kernel: bpf/NAME.bpf.c becomes NAME.bpf.o, a file of the package."""

    def __init__(self, name: str) -> None:
        source = f"bpf/{name.rpartition('.')[2]}.bpf.c"
        super().__init__(name, [source], depends=[*HEADERS, *sorted(glob("bpf/*.h"))], optional=True)


class BuildExt(build_ext):
    """Hands BPF objects to clang; setuptools does the rest: when to build, where to put, what may fail."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or True  # as many at once as there are processors
        if self.inplace:  # pip install -e too: one folder for both, so that nothing is compiled twice
            self.build_lib, self.build_temp = "build/inplace/lib", "build/inplace/temp"

    def get_ext_filename(self, fullname: str) -> str:
        objects = {ext.name for ext in self.extensions if isinstance(ext, BpfObject)}
        names = {name: name for name in objects} | {name.rpartition(".")[2]: name for name in objects}
        if fullname in names:
            return os.path.join(*fullname.split(".")) + BPF_SUFFIX
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        build = self._build_object if isinstance(ext, BpfObject) else super().build_extension
        try:
            build(ext)
        except (CCompilerError, OSError) as error:
            needs = OPTIONAL.get(ext.name, NEEDS)
            raise CompileError(f"{error}; {needs}" if ext.optional else str(error)) from error

    def _build_object(self, ext: BpfObject) -> None:
        target = self.get_ext_fullpath(ext.name)
        if not self._is_outdated(ext, target):
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        # Debian keeps asm/types.h where only its own architecture looks for it.
        system = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"
        command = ["clang", *BPF_FLAGS, system, "-c", ext.sources[0], "-o", target]
        if subprocess.run(command, check=False).returncode:
            raise CompileError(f"clang cannot compile {ext.sources[0]}")

    def _is_outdated(self, ext: Extension, target: str) -> bool:
        built = os.path.getmtime(target) if os.path.exists(target) else 0.0
        return self.force or any(os.path.getmtime(path) >= built for path in [*ext.sources, *ext.depends])


COMPILED = cythonize(
    [extension(name) for name in [*NAMES, *OPTIONAL]],
    language_level=3,
    compiler_directives={"boundscheck": False, "wraparound": False, "freethreading_compatible": False},
)
for ext in COMPILED:
    ext.optional = ext.name in OPTIONAL  # cythonize forgets it

# An index page has no other file: of a link into the repository it shows the text.
LINK_INSIDE = re.compile(r"\[([^]]+)\]\((?![a-z]+:)[^)]*\)")

setup(
    long_description=LINK_INSIDE.sub(r"\1", Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    ext_modules=[*COMPILED, BpfObject("kdht.datapath.ebpf.kdht_xdp"), BpfObject("kdht.lab.xdp_pass")],
    cmdclass={"build_ext": BuildExt},
)
