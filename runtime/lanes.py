"""Where the engine decodes, and which windows are under way there."""

from dataclasses import dataclass

from mwc.runtime.decode import RunningSearch
from mwc.runtime.encoding import EncodedWindow
from mwc.runtime.request import Request
from mwc.runtime.work import Work


@dataclass(eq=False)
class Lane:
    """A window slot and the row slots of one search.

    Attributes:
        slot: the window slot.
        rows: the row slots.
        holds: the window that is encoded in the slot, where somebody may want it once more.
    """

    slot: int
    rows: tuple[int, ...]
    holds: EncodedWindow | None = None


@dataclass(eq=False)
class UnderWay:
    """A window of a request in a lane; as long as it has no search it is still to be encoded."""

    lane: Lane
    request: Request
    work: Work
    search: RunningSearch | None = None

    @property
    def window(self) -> EncodedWindow:
        """What its slot is to hold."""
        return self.work.window(self.lane.slot)


def lay_out(n_lanes: int, width: int) -> list[Lane]:
    """Lanes of `width` row slots each, over the slots from 0 on."""
    return [Lane(i, tuple(range(i * width, (i + 1) * width))) for i in range(n_lanes)]
