"""One call of a model: what it adds to the engine's work, and what it takes of it."""

from collections.abc import Callable
from typing import TypeVar

from mwc.runtime.closing import Closing
from mwc.runtime.decoder import Decoder
from mwc.runtime.detect import DetectedLanguage, detect_languages
from mwc.runtime.encoding import EncodedWindow, encode_window
from mwc.runtime.engine import Engine
from mwc.runtime.features import Features
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.request import Errand
from mwc.runtime.stop import Stop
from mwc.runtime.work import Decoded, Failed, Part

Result = TypeVar("Result")


class Call(Closing):
    """A call; its methods are for one thread at a time, which works for all calls while it waits.

    Close it when it is done with, or use it as a context manager.
    """

    def __init__(
        self,
        engine: Engine,
        options: TranscribeOptions,
        *,
        n_lanes: int = 1,
        stop: Stop = lambda: False,
    ) -> None:
        """Want windows decoded by `options`, `n_lanes` at the same time at most.

        `stop` is asked before the calls of the model, by whichever thread makes them.

        Raises:
            OptionError: `suppress_tokens` holds an id that is not in the vocabulary.
        """
        self._engine = engine
        self._options = options
        self._request = engine.request(options, n_lanes, stop)

    @property
    def has_room(self) -> bool:
        """Whether another part would be next as soon as there is a lane for it."""
        request = self._request
        return request.n_under_way + len(request.ready) < request.n_lanes

    def add(self, part: Part) -> None:
        """Have a part decoded after those added before, or beside them."""
        self._request.ready.append(part)

    @property
    def is_idle(self) -> bool:
        """Whether nothing comes of what was added any more."""
        return not (self._request.is_busy or self._request.events)

    def take(self, unless: Callable[[], bool] = lambda: False) -> Decoded | Failed | None:
        """The next window that is done, or part that failed; None once all that was added is done.

        Args:
            unless: asked between the calls of the model; None is returned once it says True.

        Raises:
            Cancelled: `stop` said so.
            MemoryShortage: the slots that the call needs do not fit.
            DeviceError: the device failed.
            BusyError: the model is called from within its own work.
        """
        events = self._request.events
        self._engine.work_until(self._request, lambda: bool(events) or unless())
        return events.popleft() if events else None

    def detect_language(self, features: Features) -> DetectedLanguage:
        """Tell the language of a file from its first 30 s.

        Audio shorter than that counts as followed by silence, as in openai/whisper: all 3000 frames
        of the window are heard.

        Raises:
            OptionError: the model knows English only.
            AudioError: the file cannot be read a second time.
            Others as for `take`.
        """
        spec = self._engine.spec

        def first(slot: int) -> EncodedWindow | None:
            if not spec.tokens.is_multilingual:
                return None
            return EncodedWindow(slot, features, 0, spec.audio.n_frames)

        def listen(decoder: Decoder, slot: int, row: int) -> DetectedLanguage:
            window = first(slot)
            if window is not None:
                encode_window(decoder, window)
            return detect_languages(decoder, [(slot, row)], self._options.languages)[0]

        return self._run(Errand(listen, leaves=first))

    def in_slot(self, do: Callable[[Decoder, int, int], Result]) -> Result:
        """Do something with the model, a window slot and a row slot that are idle.

        Raises what it raises; others as for `take`.
        """
        return self._run(Errand(do))

    def close(self) -> None:
        """Want nothing more."""
        self._engine.close(self._request)

    def _run(self, errand: Errand[Result]) -> Result:
        self._request.errands.append(errand)
        self._engine.work_until(self._request, lambda: errand.is_done)
        return errand.outcome()
