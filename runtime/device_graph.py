"""A call of a graph whose buffers stay where they are: captured once, then replayed.

A GPU takes longer to be told the hundred kernels of a step one by one than to run them. MAX records
what a call launches as a device graph, which one launch replays: on the same buffers, without a
kernel's sizes being worked out again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from max.driver import Buffer
    from max.engine import Model as CompiledGraph


class DeviceGraph:
    """One entry point with fixed buffers.

    Attributes:
        refusal: why MAX could not capture it, in MAX's words; it is then executed each time.
    """

    def __init__(self, graph: "CompiledGraph", key: int, arguments: "Sequence[Buffer]") -> None:
        """Keep a call.

        Args:
            graph: the compiled entry point.
            key: a number that no other device graph of it has.
            arguments: its inputs and caches, on the device.
        """
        self.refusal: str | None = None
        self._graph = graph
        self._key = key
        self._arguments = tuple(arguments)
        self._results: list[Buffer] | None = None
        self._runs = 0

    @property
    def is_captured(self) -> bool:
        """Whether runs are replayed."""
        return self._results is not None

    def fits(self, arguments: "Sequence[Buffer]") -> bool:
        """Whether these are the buffers that it keeps."""
        return len(arguments) == len(self._arguments) and all(
            ours is theirs for ours, theirs in zip(self._arguments, arguments, strict=True)
        )

    def run(self) -> "Sequence[Buffer]":
        """Run the call on what its buffers hold now; the results are overwritten by the next run.

        The first time as any call, so that all is loaded; the second time it is captured.
        """
        self._runs += 1
        if self._runs == 1 or self.refusal is not None:
            return self._execute()
        if self._results is None:
            try:
                self._results = self._graph.capture(self._key, *self._arguments)
            except (RuntimeError, ValueError) as error:
                self.refusal = str(error) or type(error).__name__
                return self._execute()
        self._graph.replay(self._key, *self._arguments)
        return self._results

    def _execute(self) -> "list[Buffer]":
        results: list[Buffer] = self._graph.execute(*self._arguments)
        return results

    def release(self) -> None:
        """Let go what the device keeps of it."""
        if self._results is not None:
            self._graph.release_captured_graph(self._key)
            self._results = None
            self._runs = 0
