"""Many prompts, run a group at a time, and what they chose put together again."""

from collections.abc import Iterator, Sequence

import numpy as np

from mwc.runtime.decoder import Choice, PrefillResult, PrefillRow

PROMPT_TOKENS = 4096
"""Tokens of prompts that run in one call: what a decoder works in grows with them, some 70 kB each
in large-v3 on a GPU, so these take no more than ENCODED_TOGETHER windows do. 65,535 are the most
that its kernels can be started for."""


def in_groups(rows: Sequence[PrefillRow], most: int) -> Iterator[list[PrefillRow]]:
    """The rows in order, in groups of at most so many tokens; a longer prompt is one by itself."""
    group: list[PrefillRow] = []
    n_tokens = 0
    for row in rows:
        if group and n_tokens + len(row.tokens) > most:
            yield group
            group, n_tokens = [], 0
        group.append(row)
        n_tokens += len(row.tokens)
    yield group


def joined(found: Sequence[PrefillResult]) -> PrefillResult:
    """What several prefills chose, as if it had been one."""
    return PrefillResult(
        Choice(
            np.concatenate([each.choice.candidates for each in found]),
            np.concatenate([each.choice.candidate_logprobs for each in found]),
        ),
        np.concatenate([each.no_speech_probs for each in found]),
        np.concatenate([each.language_probs for each in found]),
    )
