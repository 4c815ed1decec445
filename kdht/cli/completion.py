"""completion: kdhtctl's."""

from kdht.program.completion import completion_of

completion = completion_of("kdhtctl")
