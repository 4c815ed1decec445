"""Runs a target on single inputs under the sanitizers: `python -m fuzz.replay TARGET FILE...`."""

import subprocess
import sys

from fuzz.build import BUILD, Unbuildable, build, environment


def main() -> int:
    if len(sys.argv) < 3:
        print("usage: python -m fuzz.replay TARGET FILE...", file=sys.stderr)
        return 2
    try:
        command = [build(BUILD), *sys.argv[2:]]
    except Unbuildable as why:
        print(f"fuzz: {why}", file=sys.stderr)
        return 2
    return subprocess.run(command, env=environment(sys.argv[1]), check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
