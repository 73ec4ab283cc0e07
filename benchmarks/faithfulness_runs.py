"""What faithfulness.py asks of every engine: options by run, and mwc's modes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engines import GREEDY, Options

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""openai/whisper's temperatures: the first at which a window's text is plausible counts."""

RUNS: Mapping[str, Options] = {
    "greedy": GREEDY,
    "ladder": {"temperature": LADDER},
    "beam": {"temperature": 0.0, "beam_size": 5},
    "words": {"temperature": 0.0, "word_timestamps": True},
}
"""What every engine is asked for, with timestamps."""


@dataclass(frozen=True)
class Mode:
    """A way in which mwc goes through a file.

    Attributes:
        options: of mwc alone, beside those of the run.
        runs: the names of the runs that are made in it.
    """

    options: Options = field(default_factory=dict)
    runs: tuple[str, ...] = tuple(RUNS)


MODES: Mapping[str, Mode] = {
    "sequential": Mode(),
    "batched": Mode({"batch_size": 8}, ("words",)),
}
"""Every mode of mwc, by the name it has in the results; openai/whisper has the first only, and
segments of other windows than its own cannot be compared with its."""
