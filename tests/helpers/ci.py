"""Whether this run is one of continuous integration, which has all that a test may need."""

import os

IN_CI = os.environ.get("CI") == "true"
