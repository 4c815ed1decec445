"""The order of the files in a run: first those that take long, or the run would end with one process at work and the rest idle.

Tests of a file stay together and in order. It is enough that this list is about right; what is not on it follows by folder.
"""

from pathlib import Path

from paths import TESTS

LONGEST = (
    "root/test_kernels.py",
    "root/test_host_cases.py",
    "root/test_limits.py",
    "root/test_tokens_datapaths.py",
    "install/test_install.py",
    "fuzz/test_fuzz_corpus.py",
    "root/test_operating.py",
    "root/test_histories.py",
    "root/test_nfqueue.py",
    "root/test_demo.py",
    "daemon/test_moves.py",
    "root/test_rolling_change.py",
    "root/test_mixed_versions.py",
    "root/test_ebpf_compare.py",
    "root/test_units_installed.py",
    "root/test_survival.py",
    "install/test_image.py",
    "install/test_deb.py",
    "daemon/test_many_starts.py",
    "daemon/test_operators.py",
    "daemon/test_outside_data.py",
    "daemon/test_daemon.py",
    "daemon/test_tokens.py",
    "cli/test_cli_setup.py",
    "cli/test_cli_errors.py",
    "cli/test_cli.py",
)
FOLDERS = (
    "root",
    "install",
    "daemon",
    "demo",
    "faces",
    "client",
    "histories",
    "cli",
    "docs",
    "examples",
    "lab",
)


def place(path: Path) -> tuple[int, int]:
    """What to sort a test by, from its file."""
    name = path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""
    if name in LONGEST:
        return 0, LONGEST.index(name)
    folder = name.partition("/")[0]
    return 1, FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)
