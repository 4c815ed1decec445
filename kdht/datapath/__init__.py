"""Layer 2: where verdicts meet packets. `base` is the seam, each other module one datapath."""
