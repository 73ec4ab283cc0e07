"""What one call wants of the engine: parts waiting, parts under way, and what came of them."""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mwc.runtime.decoder import Decoder
from mwc.runtime.encoding import EncodedWindow
from mwc.runtime.errors import AudioError, Cancelled
from mwc.runtime.features import Features
from mwc.runtime.stop import Stop
from mwc.runtime.work import Decoded, Failed, Part, Recipe, Work

Result = TypeVar("Result")


class Errand(Generic[Result]):
    """Something to do once in an idle window slot, for a thread that waits for what comes of it.

    Attributes:
        leaves: what the slot, whose number it is given, holds afterwards.
    """

    def __init__(
        self,
        do: Callable[[Decoder, int, int], Result],
        leaves: Callable[[int], EncodedWindow | None] = lambda slot: None,
    ) -> None:
        """`do` is given the model, a window slot and a row slot."""
        self.leaves = leaves
        self._do = do
        self._found: list[Result] = []
        self._error: Exception | None = None

    def run(self, decoder: Decoder, window: int, row: int) -> None:
        """Do it; an error is kept for the one who asked."""
        try:
            self._found.append(self._do(decoder, window, row))
        except Exception as error:
            self._error = error

    @property
    def is_done(self) -> bool:
        """Whether it was run."""
        return bool(self._found) or self._error is not None

    def outcome(self) -> Result:
        """What came of it, or the error, raised."""
        if self._error is not None:
            raise self._error
        return self._found[0]


class Request:
    """A call's queue.

    Parts are added and events taken by the thread that calls; all else is the engine's, whichever
    thread does its work.

    Attributes:
        recipe: how its windows are decoded.
        n_lanes: how many of them at the same time at most.
        stop: whether it is to end.
        ready: parts whose next window may begin, those that have begun first.
        events: what came of windows, not taken yet.
        errands: what wants an idle lane once.
        n_under_way: windows in lanes.
        error: why it ended before its time.
        is_closed: whether nobody waits for it any more.
    """

    def __init__(self, recipe: Recipe, n_lanes: int, stop: Stop) -> None:
        self.recipe = recipe
        self.n_lanes = n_lanes
        self.stop = stop
        self.ready: deque[Part] = deque()
        self.events: deque[Decoded | Failed] = deque()
        self.errands: deque[Errand[Any]] = deque()
        self.n_under_way = 0
        self.error: BaseException | None = None
        self.is_closed = False
        self._begun: dict[int, Part] = {}

    @property
    def is_busy(self) -> bool:
        """Whether the engine has anything to do for it."""
        return bool(self.ready or self.errands or self.n_under_way)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be done for it, though there were."""
        return self.is_closed or self.error is not None

    @property
    def may_begin(self) -> bool:
        """Whether it has a window for a lane."""
        return bool(self.ready) and self.n_under_way < self.n_lanes

    def next_work(self) -> Work | None:
        """The next window of the first part that has one; those without speech are left out."""
        while self.ready:
            part = self.ready.popleft()
            asked = part.loop.next_window()
            if asked is None:
                self._begun.pop(id(part), None)
                continue
            self._begun[id(part)] = part
            work = Work(self.recipe, part, asked)
            if work.may_have_speech:
                return work
            self.take(work.leave_out())
        return None

    def take(self, decoded: Decoded) -> None:
        """Take a window that is done; its part goes on before others begin."""
        self.events.append(decoded)
        if decoded.ends_part:
            self._begun.pop(id(decoded.part), None)
        else:
            self.ready.appendleft(decoded.part)

    def fail(self, part: Part, error: Exception) -> None:
        """Take that a part cannot be read to its end; what is no AudioError ends the request."""
        self._begun.pop(id(part), None)
        if isinstance(error, AudioError):
            self.events.append(Failed(part, error))
        else:
            self.error = error

    def ask_whether_to_stop(self) -> None:
        """End it if its `stop` says so."""
        try:
            if self.stop():
                self.error = Cancelled("the transcription was cancelled.")
        except Exception as error:
            self.error = error

    def seeks_in(self, features: Features) -> list[int]:
        """Frames of a file at which its parts under way stand."""
        return [part.loop.seek for part in self._begun.values() if part.features is features]
