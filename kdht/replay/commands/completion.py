"""completion: kdht-replay's."""

from kdht.program.completion import completion_of

command = completion_of("kdht-replay")
