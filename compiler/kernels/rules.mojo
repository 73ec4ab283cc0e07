"""The rules for the next token, as ranges of ids; shared by the CPU's and the GPU's choice.

They are openai/whisper's `SuppressTokens`, `SuppressBlank` and `ApplyTimestampRules`
(decoding.py), worked out as ranges of allowed ids instead of masks: text [text_from, timestamps)
and timestamps [time_from, time_to). `mwc.runtime.rules` holds the same rules in numpy.
"""

from std.math import exp, log

comptime LOWEST = Float32(-1e30)
"""Anything below is a masked logit."""

# Columns of a row's rule state, as mwc.runtime.rules.rule_state writes them.
comptime LAST = 0
comptime PENULTIMATE = 1
comptime LAST_TIMESTAMP = 2
comptime N_SAMPLED = 3
comptime WITH_TIMESTAMPS = 4
comptime MAX_INITIAL = 5
comptime STATE_SIZE = 6


@fieldwise_init
struct Best(Copyable, Movable):
    """The best of a range of ids: where, its logit, and the sum of exp(logit - best)."""

    var id: Int
    var logit: Float32
    var total: Float32

    def exists(self) -> Bool:
        """Whether any id of the range is allowed."""
        return self.id >= 0

    def log_total(self) -> Float32:
        """logsumexp of the range."""
        return self.logit + log(self.total)


@always_inline
def join(first: Best, second: Best) -> Best:
    """The best of two ranges of ids, the first of which comes first."""
    if not (first.exists() and second.exists()):
        return first.copy() if first.exists() else second.copy()
    var top = max(first.logit, second.logit)
    var total = first.total * exp(first.logit - top) + second.total * exp(second.logit - top)
    return Best(first.id if first.logit == top else second.id, top, total)


@fieldwise_init
struct Allowed(Copyable, Movable):
    """The ids a row may sample: [text_from, begin) and [time_from, time_to)."""

    var text_from: Int
    var time_from: Int
    var time_to: Int


@always_inline
def allowed_ids(
    last: Int,
    penultimate: Int,
    last_timestamp: Int,
    sampled: Int,
    with_timestamps: Bool,
    max_initial: Int,
    eot: Int,
    begin: Int,
    vocab: Int,
) -> Allowed:
    """The timestamp rules for one row's state; `begin` is the first timestamp's id."""
    var allowed = Allowed(0, begin, vocab)
    if not with_timestamps:
        return allowed^
    var after_time = sampled >= 1 and last >= begin
    var after_pair = after_time and (sampled < 2 or penultimate >= begin)
    if after_pair:
        allowed.time_to = begin
    elif after_time:
        allowed.text_from = eot
    if last_timestamp >= 0:
        # The next segment's start may repeat the last one's end; otherwise time moves on.
        allowed.time_from = last_timestamp if after_time and not after_pair else last_timestamp + 1
    if sampled == 0:
        allowed.text_from = begin
        if max_initial >= 0:
            allowed.time_to = min(allowed.time_to, begin + max_initial + 1)
    allowed.time_to = max(allowed.time_from, allowed.time_to)
    return allowed^


@fieldwise_init
struct Verdict(Copyable, Movable):
    """Which of the allowed ranges may be taken, and the logsumexp of what they hold."""

    var text: Bool
    var time: Bool
    var log_total: Float32


@always_inline
def judge(text: Best, time: Best, with_timestamps: Bool) -> Verdict:
    """Where timestamps together are likelier than the likeliest text, text is out."""
    if not time.exists():
        return Verdict(text.exists(), False, text.log_total() if text.exists() else LOWEST)
    var log_time = time.log_total()
    if not text.exists() or (with_timestamps and log_time > text.logit):
        return Verdict(False, True, log_time)
    var log_text = text.log_total()
    var top = max(log_text, log_time)
    var log_total = top + log(exp(log_text - top) + exp(log_time - top))
    return Verdict(True, True, log_total)
