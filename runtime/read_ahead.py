"""Make the next items of an iterator while the last ones are used: decoding beside computing.

FFmpeg's decoders and the graphs both leave the interpreter to others while they work.
"""

from collections.abc import Generator
from queue import Queue
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")

ITEMS_AHEAD = 4
"""Items made before they are asked for: of audio, 40 s or 2.6 MB."""


def read_ahead(items: Generator[Item, None, None]) -> Generator[Item, None, None]:
    """Yield what `items` yields, in order, made by a thread of its own.

    What `items` raises is raised here, behind the items before it. The thread ends, and `items` is
    closed in it, when this is exhausted or closed.
    """
    made: Queue[Item | _End] = Queue(ITEMS_AHEAD)
    left = Event()

    def make() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                made.put(item)
                if left.is_set():
                    break
            items.close()
        except BaseException as raised:
            error = raised
        made.put(_End(error))

    thread = Thread(target=make, name="mwc-read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := made.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        left.set()
        while thread.is_alive():  # it may wait for room to put an item, then the end
            while not made.empty():
                made.get()
            thread.join(timeout=0.01)


class _End:
    """What stands behind the last item: the error that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
