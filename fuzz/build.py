"""The instrumented build: extensions and harness under clang's sanitizers, all of it out of tree.

    python -m fuzz.build [OUT]

OUT (fuzz/build) gets lib/kdht, a copy of the package with extensions that count edges and
check addresses and undefined behaviour, and `harness`, libFuzzer around an embedded Python.
The ordinary build is not touched. What did not change is not built again.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from fuzz.targets import OF_PYTHON

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "fuzz" / "build"
EXTENSIONS = (
    "_*.pyx", "core/_*.pyx", "wire/_*.pyx", "storage/_*.pyx", "datapath/nfqueue/_nfqueue.pyx", "datapath/socket/_*.pyx",
    "node/**/_*.pyx", "client/_*.pyx",
)  # fmt: skip
"""Under kdht/: the core, the cache, the readers of the kernel's messages, of the store and of STOREs, and what a node needs."""

_LIBRARIES = re.compile(r"^# distutils: libraries = (\w+)", re.MULTILINE)
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-w", *CHECKS]
# Under node/. Cython makes an object without arguments by adding 0 to a null pointer, which C leaves undefined. What is parsed
# there is checked by the address sanitizer all the same.
OF_MAKERS = ["-fno-sanitize=pointer-overflow"]
DIRECTIVES = ["boundscheck=False", "wraparound=False"]
"""Those of setup.py, so that its C serves here too: a translation takes as long as clang does."""


class Unbuildable(Exception):
    """Why there is no instrumented build, in one line."""


def missing() -> str:
    """The tools that this machine lacks for the build, in one line. Empty: none."""
    clang = shutil.which("clang")
    if clang is None:
        return "fuzzing needs clang (Debian: apt-get install clang libclang-rt-dev)"
    said = subprocess.run([clang, "-print-runtime-dir"], capture_output=True, text=True, check=True)
    if not list(Path(said.stdout.strip()).glob("libclang_rt.fuzzer*.a")):
        return "fuzzing needs clang's sanitizers (Debian: apt-get install libclang-rt-dev)"
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        return f"fuzzing needs a Python with a shared library, which {sys.executable} has not"
    return ""


def build(out: Path = BUILD, source: Path = ROOT) -> Path:
    """Build the harness if it is out of date. Raises Unbuildable."""
    if lack := missing():
        raise Unbuildable(lack)
    package = out / "lib" / "kdht"
    shutil.copytree(
        source / "kdht",
        package,
        ignore=shutil.ignore_patterns("*.so", "*.c", "*.o", "__pycache__"),
        dirs_exist_ok=True,
    )
    shared = [
        path for pattern in ("kdht/**/*.pxd", "kdht/**/*.h", "include/*.h") for path in source.glob(pattern)
    ]
    for pattern in EXTENSIONS:
        for pyx in sorted((source / "kdht").glob(pattern)):
            _build_extension(out, source, pyx, shared)
    return _build_harness(out)


def environment(target: str, out: Path = BUILD) -> dict[str, str]:
    """The environment variables for the harness in `out`."""
    return os.environ | {
        "KDHT_FUZZ_TARGET": target,
        "PYTHONPATH": f"{out / 'lib'}:{ROOT}",
        # With malloc the address sanitizer sees where each object ends; it costs half the speed.
        "PYTHONMALLOC": "pymalloc" if target in OF_PYTHON else "malloc",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ASAN_OPTIONS": "detect_leaks=0:malloc_context_size=4:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def _build_extension(out: Path, source: Path, pyx: Path, shared: list[Path]) -> None:
    name = pyx.relative_to(source).with_suffix("")
    library = out / "lib" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if _is_newer(library, [pyx, *shared]):
        return
    code = _translated(out, source, pyx, shared)
    includes = [f"-I{source / 'include'}", f"-I{pyx.parent}", f"-I{sysconfig.get_path('include')}"]
    libraries = [f"-l{name}" for name in _LIBRARIES.findall(pyx.read_text())]
    flags = [*FLAGS, *(OF_MAKERS if "node" in name.parts else ())]
    _run(
        ["clang", "-shared", "-fPIC", "-fsanitize=fuzzer-no-link", *flags, *includes, code, "-o", library,
         *libraries]
    )  # fmt: skip


def _translated(out: Path, source: Path, pyx: Path, shared: list[Path]) -> Path:
    """The C of an extension: what the ordinary build made with the same directives, or a translation of our own."""
    made = pyx.with_suffix(".c")
    if _is_newer(made, [pyx, *(path for path in shared if path.suffix == ".pxd")]):
        return made
    code = out / "c" / f"{'.'.join(pyx.relative_to(source).with_suffix('').parts)}.c"
    code.parent.mkdir(parents=True, exist_ok=True)
    directives = [word for directive in DIRECTIVES for word in ("-X", directive)]
    _run([sys.executable, "-m", "cython", "-3", *directives, "-o", code, pyx.relative_to(source)], cwd=source)
    return code


def _build_harness(out: Path) -> Path:
    code, harness = Path(__file__).with_name("harness.c"), out / "harness"
    if _is_newer(harness, [code]):
        return harness
    libraries = sysconfig.get_config_var("LIBDIR")
    python = f"-lpython{sysconfig.get_config_var('LDVERSION')}"
    _run(
        ["clang", "-fsanitize=fuzzer", *FLAGS, "-rdynamic", f"-I{sysconfig.get_path('include')}",
         f'-DKDHT_FUZZ_PYTHON="{sys.executable}"', code, f"-L{libraries}", f"-Wl,-rpath,{libraries}", python,
         "-o", harness]
    )  # fmt: skip
    return harness


def _is_newer(built: Path, sources: list[Path]) -> bool:
    """Whether it is newer than its sources. This file is a source too."""
    if not built.exists():
        return False
    return built.stat().st_mtime > max(path.stat().st_mtime for path in [*sources, Path(__file__)])


def _run(command: list[str | Path], cwd: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unbuildable(f"{' '.join(map(str, command[:4]))} ... failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    try:
        print(build(*(Path(argument).resolve() for argument in sys.argv[1:2])))
    except Unbuildable as why:
        sys.exit(f"fuzz: {why}")
