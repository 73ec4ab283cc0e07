"""The engine: parts of audio in, decoded windows out, of all calls that want something of a model.

It works in rounds. In each, idle lanes take windows, call after call; these are encoded together,
told their language where that is wanted, and their searches begin; then every search under way
takes a step, or several, in one call of the model. A window that is done is judged: its text is
accepted, or searched for once more. What a window gives does not depend on its company.

There is no thread of its own: a thread that waits for what it wants does a round whenever nobody
else does one, for everybody.
"""

from collections.abc import Callable, Sequence

from mwc.runtime.decode import DecodingBatch, RunningSearch
from mwc.runtime.decoder import Decoder, Float32
from mwc.runtime.detect import detect_languages
from mwc.runtime.encoding import EncodingBatch
from mwc.runtime.errors import BusyError, Cancelled, MemoryShortage
from mwc.runtime.hear_together import HearTogether
from mwc.runtime.lanes import Lane, UnderWay, lay_out
from mwc.runtime.options import TranscribeOptions
from mwc.runtime.request import Request
from mwc.runtime.spec import WhisperSpec
from mwc.runtime.stop import Stop
from mwc.runtime.tokenizer import Tokenizer
from mwc.runtime.turns import Turns
from mwc.runtime.work import Judgement, Recipe

MOST_LANES = 8
"""Windows of several calls decoded at the same time at most, unless it is said otherwise."""


class Engine:
    """Decodes for any number of calls, from any threads, in the slots of one decoder.

    Attributes:
        tokenizer: the model's tokenizer.
    """

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, *, most_lanes: int = MOST_LANES
    ) -> None:
        """Have all slots of a decoder, from 0 on.

        Slots are taken as calls want them: a lane for each window that a call wants decoded at the
        same time, but for all of them together not more than `most_lanes`, unless one call by
        itself wants more.
        """
        self.tokenizer = tokenizer
        self._decoder = decoder
        self._most_lanes = self._fitting = most_lanes
        self._turns = Turns()
        self._hearing = HearTogether(decoder, self._turns)
        self._is_working = False
        self._lanes: list[Lane] = []
        self._width = 0
        self._requests: list[Request] = []
        self._under_way: list[UnderWay] = []
        self._batch = DecodingBatch(decoder)

    @property
    def spec(self) -> WhisperSpec:
        """The model's dimensions, audio constants and tokens."""
        return self._decoder.spec

    @property
    def heard_ahead(self) -> int:
        """How many files to hear before there is room for them."""
        return self._decoder.heard_ahead

    def log_mel(self, samples: Float32) -> Float32:
        """Raw log10-mel frames between two rounds; see `Hearing.log_mel`."""
        return self._hearing.log_mel(samples)

    def vad(self, samples: Float32, state: Float32) -> tuple[Float32, Float32]:
        """How likely frames hold speech, between two rounds; see `Hearing.vad`."""
        return self._hearing.vad(samples, state)

    def check_memory(self, options: TranscribeOptions) -> None:
        """Refuse a call for whose windows there is no memory, before anything is heard for it.

        Raises:
            MemoryShortage: what it has decoded side by side does not fit.
        """
        lanes = options.batch_size
        with self._turns:
            self._decoder.check_memory(n_windows=lanes, n_rows=lanes * options.width)

    def request(self, options: TranscribeOptions, n_lanes: int, stop: Stop) -> Request:
        """A request of a call (call.py) for windows decoded by `options`, `n_lanes` at a time.

        Raises:
            OptionError: `suppress_tokens` holds an id that is not in the vocabulary.
        """
        return Request(Recipe(self.spec, self.tokenizer, options), n_lanes, stop)

    def work_until(self, request: Request, is_there: Callable[[], bool]) -> bool:
        """Wait for something that is to come of a request, and work meanwhile.

        Returns:
            Whether it is there; False if nothing more comes of the request.

        Raises:
            Cancelled: the request's `stop` said so.
            MemoryShortage: the slots that it needs do not fit.
            BusyError: the model is called from within its own work.
        """
        while not is_there():
            with self._turns:
                if is_there():
                    break
                if request.error is not None:
                    raise request.error
                if not request.is_busy:
                    return False
                self._work(request)
        return True

    def close(self, request: Request) -> None:
        """Have nothing more to do with a request, at once or from the next round on.

        It never waits: it may be called by the finalizer of an iterator.
        """
        request.is_closed = True
        if self._turns.take_if_free():
            try:
                self._let_go()
            finally:
                self._turns.leave()

    def _work(self, request: Request) -> None:
        """Do a round, for a request among others; what goes wrong in it concerns everybody."""
        if self._is_working:
            raise BusyError(
                "the model is called by what it is waiting for itself, a file that it reads or an "
                "event that is to cancel it; load the model twice for that."
            )
        if request not in self._requests:
            self._requests.append(request)
        self._is_working = True
        try:
            self._round()
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._is_working = False

    def _round(self) -> None:
        self._ask_whether_to_stop()
        self._let_go()
        if self._have_lanes():
            self._run_errands()
            self._take_windows()
            encoded = self._encode([each for each in self._under_way if each.search is None])
            if encoded:
                self._ask_whether_to_stop()
                self._let_go()
                self._begin([each for each in encoded if each in self._under_way])
        if self._batch.is_busy:
            ended = self._batch.advance()
            for each in list(self._under_way):
                if each.search is not None and each.search in ended:
                    self._judge(each, each.search)
        self._let_go()

    def _ask_whether_to_stop(self) -> None:
        for request in self._requests:
            if request.is_busy and not request.has_ended:
                request.ask_whether_to_stop()

    def _let_go(self) -> None:
        """Forget requests that have ended or want nothing, and their windows."""
        for each in list(self._under_way):
            if each.request.has_ended:
                if each.search is not None:
                    self._batch.drop(each.search)
                self._leave(each)
        self._requests = [r for r in self._requests if r.is_busy and not r.has_ended]
        if not self._requests:
            self._fitting = self._most_lanes

    def _give_up(self, error: BaseException) -> None:
        """Start anew without the requests there are: their slots cannot be relied on."""
        for request in self._requests:
            request.error = error
            if not isinstance(error, Exception):
                request.error = Cancelled("the model's work was interrupted by another call of it.")
        self._lanes, self._width = [], 0
        self._requests, self._under_way = [], []
        self._batch = DecodingBatch(self._decoder)

    def _have_lanes(self) -> bool:
        """Have the lanes that requests want; False as long as others are in use."""
        while True:
            most = max((request.n_lanes for request in self._requests), default=0)
            all_wanted = sum(request.n_lanes for request in self._requests)
            least = max(most, len(self._under_way))
            wanted = max(least, min(self._fitting, all_wanted))
            width = max((request.recipe.width for request in self._requests), default=0)
            if wanted <= len(self._lanes) and width <= self._width:
                return True
            if self._batch.is_busy:
                return False
            try:
                self._decoder.reserve(n_windows=wanted, n_rows=wanted * width)
            except MemoryShortage as error:
                for lane in self._lanes:
                    lane.holds = None
                if wanted > least:
                    self._fitting = wanted - 1
                else:
                    self._do_without_newest(error)
                continue
            self._lanes, self._width = lay_out(wanted, width), width
            for each, lane in zip(self._under_way, self._lanes, strict=False):
                each.lane = lane

    def _do_without_newest(self, error: MemoryShortage) -> None:
        """End the newest of the requests that want more lanes, or wider ones, than there are."""
        wants_more = [
            request
            for request in self._requests
            if request.n_lanes > len(self._lanes) or request.recipe.width > self._width
        ]
        wants_more[-1].error = error
        self._let_go()

    def _idle(self) -> list[Lane]:
        """Lanes without a window; those whose slot holds one that may be wanted come last."""
        taken = {each.lane for each in self._under_way}
        idle = [lane for lane in self._lanes if lane not in taken]
        return sorted(idle, key=lambda lane: lane.holds is not None)

    def _run_errands(self) -> None:
        for request in self._requests:
            while request.errands and (idle := self._idle()):
                lane, errand = idle[0], request.errands.popleft()
                lane.holds = None
                errand.run(self._decoder, lane.slot, lane.rows[0])
                lane.holds = errand.leaves(lane.slot)

    def _take_windows(self) -> None:
        """Fill idle lanes; a request that gets one is the last in the queue then."""
        while idle := self._idle():
            request = next((r for r in self._requests if r.may_begin), None)
            if request is None:
                return
            work = request.next_work()
            if work is None:
                continue
            held = [lane for lane in idle if lane.holds == work.window(lane.slot)]
            self._under_way.append(UnderWay((held or idle)[0], request, work))
            request.n_under_way += 1
            self._requests.remove(request)
            self._requests.append(request)

    def _leave(self, each: UnderWay) -> None:
        """Have its lane idle again."""
        self._under_way.remove(each)
        each.request.n_under_way -= 1

    def _encode(self, waiting: Sequence[UnderWay]) -> list[UnderWay]:
        """Encode windows together, but for one that its slot holds already.

        Returns:
            Those that can go on; a part whose file cannot be read ends.
        """
        to_read = [each for each in waiting if each.window != each.lane.holds]
        at_once = self._decoder.encoded_together
        for first in range(0, len(to_read), at_once):
            if first:
                self._ask_whether_to_stop()
            self._encode_together(to_read[first : first + at_once])
        encoded = [each for each in waiting if each in self._under_way]
        for each in encoded:
            each.lane.holds = None
        return encoded

    def _encode_together(self, waiting: Sequence[UnderWay]) -> None:
        """Encode windows in one call; a GPU is at that while the next ones are read."""
        batch = EncodingBatch(self._decoder, len(waiting))
        for each in waiting:
            if each.request.has_ended:
                continue
            try:
                batch.read(each.window, each.request.seeks_in(each.window.features))
            except Exception as error:
                each.request.fail(each.work.part, error)
                self._leave(each)
        batch.encode()

    def _begin(self, encoded: Sequence[UnderWay]) -> None:
        """Tell the languages of encoded windows where that is wanted, and start their searches."""
        for request in self._requests:
            options = request.recipe.options
            theirs = [each for each in encoded if each.request is request]
            if not options.multilingual or not theirs:
                continue
            slots = [(each.lane.slot, each.lane.rows[0]) for each in theirs]
            found = detect_languages(self._decoder, slots, options.languages)
            for each, detected in zip(theirs, found, strict=True):
                each.work.take_language(detected)
        for each in encoded:
            self._search(each)

    def _search(self, each: UnderWay) -> None:
        sampling = each.work.sampling
        rows = each.lane.rows[: sampling.strategy.width]
        each.search = self._batch.start(each.work.task(each.lane.slot), sampling, rows)

    def _judge(self, each: UnderWay, search: RunningSearch) -> None:
        """Take what a search found."""
        more = search.going_on()
        judgement = each.work.judge(search.result(self.tokenizer), has_room=more is not None)
        if judgement is Judgement.SEARCH_AGAIN:
            self._search(each)
        elif judgement is Judgement.GO_ON and more is not None:
            each.search = self._batch.start(more, search.sampling, search.slots)
        elif judgement is Judgement.ENCODE_SHORTER:
            each.search = None
        else:
            slot, row = each.lane.slot, each.lane.rows[0]
            decoded = each.work.accept(self._decoder, slot, row)
            self._leave(each)
            each.request.take(decoded)
