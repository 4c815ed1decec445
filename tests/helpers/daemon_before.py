"""kdhtd of another build: $KDHT_BEFORE is its Python. For `Cluster(program=...)`."""

import os
import sys

if __name__ == "__main__":
    # Away from this build's folder, which would come first on the path.
    os.chdir("/")
    os.execv(os.environ["KDHT_BEFORE"], [os.environ["KDHT_BEFORE"], "-m", "kdht.daemon.main", *sys.argv[1:]])
