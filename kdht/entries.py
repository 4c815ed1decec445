"""The installed programs' entry points.

A program's own imports take some tenths of a second. Ctrl-C in that time ends it at once and quietly, as it ends a
program in C; Python's own handler would print a traceback from the midst of an import. Afterwards the programs decide.
So this module imports as little as it can.
"""

import signal
import sys
from importlib import import_module
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT
"""The exit code that a shell reports for SIGINT."""


def kdhtd() -> NoReturn:
    _run("kdht.daemon.main")


def kdhtctl() -> NoReturn:
    _run("kdht.cli.main")


def kdht_faces() -> NoReturn:
    _run("kdht.faces.main")


def kdht_replay() -> NoReturn:
    _run("kdht.replay.main")


def _run(module: str) -> NoReturn:
    # Who started it may want SIGINT to be ignored; then it stays so.
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    main = import_module(module).main
    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        pass
    finally:
        # The interpreter's own clearing up takes its time, too.
        if is_ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(INTERRUPTED)
