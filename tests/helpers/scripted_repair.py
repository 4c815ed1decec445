"""A node's repair that says what a test wants."""

from collections.abc import Callable


class ScriptedRepair:
    """A test may replace `caught_up` and `holding`. `missed_keys`: what the coordinator reported."""

    def __init__(self, responsible: Callable[[bytes], bool] = lambda key: True) -> None:
        self.caught_up: Callable[[bytes], bool] = lambda key: True
        self.holding: Callable[[bytes], bool] = lambda key: self.caught_up(key) and responsible(key)
        self.missed_keys: list[bytes] = []

    def is_caught_up(self, key: bytes) -> bool:
        return self.caught_up(key)

    def holds(self, key: bytes) -> bool:
        return self.holding(key)

    def missed(self, key: bytes) -> None:
        self.missed_keys.append(key)

    def changed(self, key: bytes) -> None:
        pass

    def catch_up_anew(self) -> None:
        pass
