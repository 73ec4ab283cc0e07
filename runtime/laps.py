"""How long the stages of a start take, one after the other."""

import time


class Laps:
    """A stopwatch that notes where one stage ends and the next begins.

    Attributes:
        seconds: of each stage that has ended, by its name, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    def end(self, stage: str) -> None:
        """What was done since the last stage was this one."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._begin
        self._begin = now
