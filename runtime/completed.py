"""What is done in any order, given in the order in which it was asked for."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TypeVar

from mwc.runtime.errors import AudioError
from mwc.runtime.transcript import Transcript

T = TypeVar("T")

Completed = tuple[int, Transcript | AudioError]
"""Which of the files given, counted from 0, and its transcript or the error why there is none."""


def in_order(completed: Generator[tuple[int, T], None, None]) -> Generator[T, None, None]:
    """Give each thing once those before it have been given; `completed` ends with this."""
    waiting: dict[int, T] = {}
    n_given = 0
    with closing(completed):
        for number, thing in completed:
            waiting[number] = thing
            while n_given in waiting:
                yield waiting.pop(n_given)
                n_given += 1


def raising(found: Generator[Transcript | AudioError, None, None]) -> Iterator[Transcript]:
    """Transcripts up to the first error, which is raised."""
    with closing(found):
        for each in found:
            if isinstance(each, AudioError):
                raise each
            yield each
