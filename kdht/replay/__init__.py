"""kdht-replay: captured packets through any implementation of the routing rules, with each one's verdicts.

A capture is streamed as batches (_capture, capture), a table says which node judges it
(tables), an implementation gives verdicts on whole batches (implementations, live). The
commands compare (compare), keep (fixtures, record), make (generate), time (bench) and
explain (explain) them; `draw` shows them to people. docs/replay.md is the manual.
"""
