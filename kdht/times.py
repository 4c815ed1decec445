"""The two kinds of time, both in seconds as floats. mypy refuses one where the other is expected.

`UnixTime` is the time of day. Records expire by it, and messages carry it. It may be set back.
`SteadyTime` never runs backwards. Time-outs and alarms go by it. Only differences mean anything.

A sum with a number is a plain float again. Name the kind anew where such a sum is passed on as a time.
"""

from typing import NewType

UnixTime = NewType("UnixTime", float)
SteadyTime = NewType("SteadyTime", float)
