"""What a call of several steps chose, as far as it counts."""

import numpy as np

from mwc.runtime.decoder import Choice

EOT = 9


def choice(*rows: list[int], lengths: list[int] | None = None) -> Choice:
    candidates = np.array(rows, np.int32)
    logprobs = -candidates.astype(np.float32)
    return Choice(candidates, logprobs, None if lengths is None else np.array(lengths, np.int32))


def test_tokens_count_up_to_the_first_eot() -> None:
    chosen = choice([1, EOT, EOT, EOT], [1, 2, 3, 4], [EOT, 1, EOT, 2], [1, 2, 3, EOT]).up_to(EOT)
    assert [tokens for tokens, _ in chosen.by_row()] == [
        [1, EOT], [1, 2, 3, 4], [EOT], [1, 2, 3, EOT],
    ]  # fmt: skip
    assert next(logprobs for _, logprobs in chosen.by_row()) == [-1, -EOT]


def test_a_row_that_counts_less_far_stays_as_it_is() -> None:
    chosen = choice([1, 2, EOT], [1, EOT, 3], lengths=[1, 3]).up_to(EOT)
    assert [chosen.length(row) for row in range(2)] == [1, 2]


def test_without_an_eot_nothing_changes() -> None:
    whole = choice([1, 2, 3])
    assert whole.up_to(EOT) is whole
