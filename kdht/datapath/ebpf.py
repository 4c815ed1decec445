"""stub"""
from pathlib import Path
OBJECT = Path(__file__).with_name("kdht_xdp.bpf.o")
PROGRAM = "kdht_xdp"
