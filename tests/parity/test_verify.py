"""`verify` passes a session that is right and names what is wrong with those that are not."""

import dataclasses
import json
import zlib

import numpy as np
import pytest
from fake_session import FakeSession
from tiny_model import speech_like, tiny_model

from mwc.compiler.parity import BOUNDS
from mwc.compiler.reference_numpy import NumpyReference
from mwc.compiler.verify import N_STEPS, verify
from mwc.compiler.verify_tokens import Decoding, compare_tokens, verify_prompt
from mwc.runtime.decoder import Choice, PrefillResult
from mwc.runtime.errors import OptionError, VerificationError
from mwc.runtime.rules import rule_state

N_TEXT_CTX = 32
"""A short text context: 16 tokens per decoding are enough here."""


@pytest.fixture(scope="module")
def model():
    return shortened(tiny_model(heads=1))


def shortened(model):
    sizes = dataclasses.replace(model.spec.model, n_text_ctx=N_TEXT_CTX)
    return dataclasses.replace(model, spec=dataclasses.replace(model.spec, model=sizes))


@pytest.fixture(scope="module")
def reference(model):
    return NumpyReference(model.tensors, model.spec)


def report_on(session, reference, precision="f32", progress=lambda event: None):
    return verify(session, reference, session.spec, speech_like(), precision, progress)


def failed(report):
    return [stage.name for stage in report.stages if not stage.ok]


def test_a_right_session_passes_against_transformers(model):
    pytest.importorskip("transformers")
    from mwc.compiler.reference_torch import TorchReference

    theirs = TorchReference(model.config, model.tensors, model.spec)
    events = []
    report = report_on(FakeSession(model.tensors, model.spec), theirs, progress=events.append)
    assert report.ok, report.summary()
    assert report.reference == theirs.name
    assert report.precision == "f32"
    assert report.bound == 1e-4
    assert [stage.name for stage in report.stages] == [
        "log_mel",
        "padding",
        *("conv", "encoder.layers.0", "encoder.layers.1", "encoder"),
        *("cross_kv.layers.0", "cross_kv.layers.1"),
        *("prefill logits", "step logits", "logprobs", "probabilities"),
    ]
    assert all(stage.max_rel <= stage.bound == 1e-4 for stage in report.stages)
    assert report.tokens_equal == report.tokens_compared >= N_TEXT_CTX // 2
    assert report.differences == ()
    assert [(e.done, e.total, e.unit) for e in events] == [(i, 5, "stages") for i in range(1, 6)]


@pytest.mark.parametrize("vocab", ["en", "v3"])
def test_other_vocabularies_pass_too(vocab):
    model = shortened(tiny_model(vocab=vocab, heads=1, layers=1))
    report = report_on(
        FakeSession(model.tensors, model.spec), NumpyReference(model.tensors, model.spec)
    )
    assert report.ok, report.summary()


CHAOTIC = 700
"""A position of the encoder that magnifies every rounding."""


class Chaotic(NumpyReference):
    """Its last layers are a thousand times as sensitive at some positions as elsewhere."""

    positions = slice(CHAOTIC, CHAOTIC + 1)

    def trace(self, log_mel):
        stages = super().trace(log_mel)
        out = stages["encoder"].copy()
        chance = np.random.default_rng(zlib.crc32(log_mel.tobytes()))
        noise = chance.uniform(-1e-3, 1e-3, out[self.positions].shape)
        out[self.positions] += (noise * np.abs(out).max()).astype(np.float32)
        return stages | {"encoder": out}


def test_positions_that_float32_leaves_open_are_told(model):
    report = report_on(FakeSession(model.tensors, model.spec), Chaotic(model.tensors, model.spec))
    assert report.ok, report.summary()
    (stage,) = [stage for stage in report.stages if stage.name == "encoder"]
    assert stage.max_rel > stage.bound
    assert stage.open_positions == 1
    assert "in 1 of its positions, where the reference moves too" in report.summary()[1]
    assert report.to_json()["stages"][5]["open_positions"] == 1
    layers = [stage for stage in report.stages if stage.name.startswith("encoder.layers")]
    assert [stage.open_positions for stage in layers] == [0, 0]


class ChaoticEverywhere(Chaotic):
    positions = slice(0, 1500, 50)


class FurtherOff(FakeSession):
    """More than chance brings at the chaotic position, or a little at another."""

    position, off = CHAOTIC, 3e-2

    def trace(self, log_mel, log_mel_max, n_frames):
        stages = super().trace(log_mel, log_mel_max, n_frames)
        out = stages["encoder"].copy()
        out[0, self.position, 3] += np.float32(self.off * np.abs(out).max())
        return stages | {"encoder": out}


class OffElsewhere(FurtherOff):
    position, off = CHAOTIC + 1, 3e-4


@pytest.mark.parametrize(
    ("session_type", "reference_type"),
    [(FakeSession, ChaoticEverywhere), (FurtherOff, Chaotic), (OffElsewhere, Chaotic)],
)
def test_what_is_no_chance_fails(model, session_type, reference_type):
    report = report_on(
        session_type(model.tensors, model.spec), reference_type(model.tensors, model.spec)
    )
    assert not report.ok
    assert "encoder" in failed(report)


class WrongMel(FakeSession):
    def log_mel(self, samples):
        return super().log_mel(samples) + np.float32(0.01)


class MelOneFrameLate(FakeSession):
    def log_mel(self, samples):
        return np.roll(super().log_mel(samples), 1, axis=1)


class ForgetsTheClipsEnd(FakeSession):
    def normalise(self, raw, top, n_frames):
        return super().normalise(raw, top, 3000)


class ForgetsTheFloor(FakeSession):
    def normalise(self, raw, top, n_frames):
        return super().normalise(np.minimum(raw, top - 0.1), top, n_frames)


class WrongLayer(FakeSession):
    def trace(self, log_mel, log_mel_max, n_frames):
        stages = super().trace(log_mel, log_mel_max, n_frames)
        return stages | {"encoder.layers.1": stages["encoder.layers.1"] * np.float32(1.001)}


class WrongShape(FakeSession):
    def trace(self, log_mel, log_mel_max, n_frames):
        stages = super().trace(log_mel, log_mel_max, n_frames)
        return stages | {"conv": stages["conv"].swapaxes(1, 2)}


class NotANumber(FakeSession):
    def trace(self, log_mel, log_mel_max, n_frames):
        stages = super().trace(log_mel, log_mel_max, n_frames)
        broken = stages["encoder.layers.0"].copy()
        broken[0, 700, 3] = np.nan
        return stages | {"encoder.layers.0": broken}


class SwappedValues(FakeSession):
    def cross_kv(self, window):
        first, (keys, values) = super().cross_kv(window)
        return [first, (keys, values[..., ::-1])]


class StepOnePositionLate(FakeSession):
    def logits(self, tokens, window):
        right = super().logits(tokens, window)
        right[-N_STEPS:] = super().logits([tokens[0], *tokens], window)[-N_STEPS:]
        return right


class WrongLogprobs(FakeSession):
    def pick(self, logits, suppress, states):
        choice = super().pick(logits, suppress, states)
        return Choice(choice.candidates, choice.candidate_logprobs - np.float32(0.01))


class WrongNoSpeech(FakeSession):
    def prefill(self, rows, suppress, n_candidates=1):
        result = super().prefill(rows, suppress, n_candidates)
        return dataclasses.replace(result, no_speech_probs=result.no_speech_probs + 0.1)


class WrongLanguages(FakeSession):
    def prefill(self, rows, suppress, n_candidates=1):
        result = super().prefill(rows, suppress, n_candidates)
        return dataclasses.replace(result, language_probs=result.language_probs[:, ::-1])


class ForgetsWhatItFed(FakeSession):
    """Steps together that take the second token for the first."""

    def steps(self, batch, suppress):
        ahead = super().steps(batch, suppress)
        return dataclasses.replace(ahead, candidates=np.roll(ahead.candidates, 1, axis=1))


class CountsTooMany(FakeSession):
    """What was drafted wrongly is not left out."""

    def steps(self, batch, suppress):
        ahead = super().steps(batch, suppress)
        wrong = ahead.candidates.copy()
        wrong[:, -1] += 1
        return dataclasses.replace(ahead, candidates=wrong, lengths=np.array([wrong.shape[1]]))


class LeavesOutTheLast(FakeSession):
    def steps(self, batch, suppress):
        ahead = super().steps(batch, suppress)
        wrong = ahead.candidates.copy()
        wrong[:, -1] += 1
        del self._rows[int(batch.rows[0])][-1]
        return dataclasses.replace(ahead, candidates=wrong, lengths=np.array([wrong.shape[1] - 1]))


@pytest.mark.parametrize("session", [ForgetsWhatItFed, CountsTooMany])
def test_steps_together_that_are_not_those_of_single_ones(model, reference, session):
    with pytest.raises(VerificationError, match="other steps together than one by one: after "):
        report_on(session(model.tensors, model.spec), reference)


def test_steps_of_which_some_count(model, reference):
    assert report_on(LeavesOutTheLast(model.tensors, model.spec), reference).ok


@pytest.mark.parametrize(
    ("session", "stages"),
    [
        (WrongMel, ["log_mel"]),
        (MelOneFrameLate, ["log_mel"]),
        (WrongLayer, ["encoder.layers.1"]),
        (WrongShape, ["conv"]),
        (NotANumber, ["encoder.layers.0"]),
        (SwappedValues, ["cross_kv.layers.1"]),
        (StepOnePositionLate, ["step logits"]),
        (WrongLogprobs, ["logprobs"]),
        (WrongNoSpeech, ["probabilities"]),
        (WrongLanguages, ["probabilities"]),
    ],
)
def test_one_wrong_stage_is_named(model, reference, session, stages):
    report = report_on(session(model.tensors, model.spec), reference)
    assert failed(report) == stages
    assert not report.ok
    assert report.differences == ()
    assert report.summary()[0] == "f32 DOES NOT MATCH numpy"
    assert any(stages[0] in line for line in report.summary())


@pytest.mark.parametrize("session", [ForgetsTheClipsEnd, ForgetsTheFloor])
def test_wrong_normalisation_shows_from_the_first_stage_on(model, reference, session):
    report = report_on(session(model.tensors, model.spec), reference)
    assert failed(report)[:3] == ["padding", "conv", "encoder.layers.0"]
    assert "encoder" in failed(report)
    assert not report.ok


class SecondBest(FakeSession):
    """Takes the second best token at the fourth step of each decoding."""

    def pick(self, logits, suppress, states):
        choice = super().pick(logits, suppress, states)
        if states[0, 3] != 3:
            return choice
        without = suppress.copy()
        without[:, choice.tokens[0]] = -np.inf
        return super().pick(logits, without, states)


class ChoosesWhatIsForbidden(FakeSession):
    """Takes a suppressed token at the third step of each decoding."""

    def pick(self, logits, suppress, states):
        choice = super().pick(logits, suppress, states)
        if states[0, 3] != 2:
            return choice
        forbidden = np.array([self.spec.tokens.suppress_tokens[:1]], np.int32)
        return Choice(forbidden, choice.candidate_logprobs)


class ForgetsTimestampRules(FakeSession):
    def pick(self, logits, suppress, states):
        plain = states.copy()
        plain[:, 4] = 0
        return super().pick(logits, suppress, plain)


def test_a_token_that_is_not_a_near_tie_fails(model, reference):
    report = report_on(SecondBest(model.tensors, model.spec), reference)
    assert failed(report) == []
    assert not report.ok
    assert [(d.with_timestamps, d.position) for d in report.differences] == [(False, 3), (True, 3)]
    assert all(1e-3 < d.margin < 64 and not d.ok for d in report.differences)
    assert report.tokens_equal == report.tokens_compared - 2
    assert "not a near tie" in report.summary()[-1]


def test_forbidden_tokens_have_an_infinite_margin(model, reference):
    report = report_on(ChoosesWhatIsForbidden(model.tensors, model.spec), reference)
    forbidden = model.spec.tokens.suppress_tokens[0]
    assert [(d.position, d.ours) for d in report.differences] == [(2, forbidden)] * 2
    assert all(d.margin == float("inf") and not d.ok for d in report.differences)
    assert not report.ok
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["differences"][0]["margin"] is None


def test_missing_timestamp_rules_show_with_timestamps_only(model, reference):
    report = report_on(ForgetsTimestampRules(model.tensors, model.spec), reference)
    assert report.differences
    assert all(d.with_timestamps for d in report.differences)
    assert not report.ok


def one_token(model, ours):
    """A decoding without timestamps of one token, and the reference's logits, -30 but for some."""
    spec = model.spec
    prompt = verify_prompt(spec, with_timestamps=False)
    first = PrefillResult(
        choice=Choice(np.array([[ours]], np.int32), np.zeros((1, 1), np.float32)),
        no_speech_probs=np.zeros(1, np.float32),
        language_probs=np.zeros((1, len(spec.tokens.languages)), np.float32),
    )
    state = rule_state([], False, spec.tokens, None)[None]
    decoding = Decoding(prompt, [ours], state, first.logprobs, first)
    return decoding, np.full((len(prompt), spec.model.n_vocab), -30.0, np.float32)


@pytest.mark.parametrize(
    ("precision", "gap", "ok"),
    [("f32", 5e-4, True), ("f32", 2e-3, False), ("bf16", 0.25, True), ("bf16", 2.0, False)],
)
def test_a_near_tie_is_excused_by_its_margin(model, precision, gap, ok):
    decoding, logits = one_token(model, ours=400)
    logits[-1, [400, 401]] = 5.0, 5.0 + gap
    (found,), _ = compare_tokens(decoding, logits, model.spec, False, BOUNDS[precision])
    assert (found.ours, found.theirs, found.position) == (400, 401, 0)
    assert found.margin == pytest.approx(gap, rel=0.02)
    assert found.ok is ok


@pytest.mark.parametrize(("weight", "ok"), [(0.01, False), (0.0005, True)])
def test_the_margin_of_text_against_timestamps_is_that_of_their_rule(model, weight, ok):
    """Two timestamps, each ln 2 less likely than the text, together outweigh it a little."""
    decoding, logits = one_token(model, ours=400)
    begin = model.spec.tokens.timestamp_begin
    logits[-1, 400] = 5.0
    logits[-1, begin + 10 : begin + 12] = 5.0 - np.log(2) + weight
    sampled = [begin, 401, 402]
    state = rule_state(sampled, True, model.spec.tokens, 50)[None]
    decoding = dataclasses.replace(decoding, states=state)
    (found,), _ = compare_tokens(decoding, logits, model.spec, True, BOUNDS["f32"])
    assert found.theirs == begin + 10
    assert found.margin == pytest.approx(weight, abs=2e-5)
    assert found.ok is ok


def test_the_margin_of_the_lesser_timestamp_against_text_adds_both_gaps(model):
    begin = model.spec.tokens.timestamp_begin
    decoding, logits = one_token(model, ours=begin + 11)
    logits[-1, 400] = 5.0
    logits[-1, [begin + 10, begin + 11]] = 5.0 - np.log(2), 5.0 - np.log(2) - 0.2
    gap = np.log(1 + np.exp(-0.2))  # what both timestamps weigh, above the likelier one
    state = rule_state([begin, 401, 402], True, model.spec.tokens, 50)[None]
    decoding = dataclasses.replace(decoding, states=state)
    (found,), _ = compare_tokens(decoding, logits, model.spec, True, BOUNDS["f32"])
    assert found.theirs == 400
    assert found.margin == pytest.approx(np.log(2) - gap + 0.2, abs=1e-4)


def rounded(array):
    """Round to bfloat16, ties away from zero: keep the upper 16 bits."""
    return ((array.view(np.uint32) + 0x8000) & 0xFFFF0000).view(np.float32)


def test_reduced_weights_pass_their_own_bounds_and_not_those_of_f32(model, reference):
    session = FakeSession(model.tensors.changed(rounded), model.spec)
    reduced = report_on(session, reference, "bf16")
    assert reduced.precision == "bf16"
    assert failed(reduced) == []
    strict = report_on(session, reference, "f32")
    assert "conv" in failed(strict)
    assert "step logits" in failed(strict)
    assert not strict.ok


def test_a_report_is_json(model, reference):
    report = report_on(NotANumber(model.tensors, model.spec), reference)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["reference"] == "numpy"
    assert data["ok"] is False
    layer = next(s for s in data["stages"] if s["name"] == "encoder.layers.0")
    assert layer["max_abs"] is None
    assert layer["ok"] is False
    assert data["tokens_compared"] == report.tokens_compared


def test_what_cannot_be_compared_is_refused(model, reference):
    class LacksAStage(FakeSession):
        def trace(self, log_mel, log_mel_max, n_frames):
            stages = super().trace(log_mel, log_mel_max, n_frames)
            stages.pop("encoder.layers.1")
            return stages

    class LacksALayer(FakeSession):
        def cross_kv(self, window):
            return super().cross_kv(window)[:1]

    class BeyondTheVocabulary(FakeSession):
        def pick(self, logits, suppress, states):
            choice = super().pick(logits, suppress, states)
            return Choice(choice.candidates + 100000, choice.candidate_logprobs)

    for session, message in [
        (LacksAStage, r"does not show encoder\.layers\.1"),
        (LacksALayer, "in 1 decoder layers, the checkpoint in 2"),
        (BeyondTheVocabulary, "chose token 10"),
    ]:
        with pytest.raises(VerificationError, match=message):
            report_on(session(model.tensors, model.spec), reference)
    with pytest.raises(OptionError, match=r"'int4'.*f32, f16, bf16"):
        report_on(FakeSession(model.tensors, model.spec), reference, "int4")


def test_the_prompt_is_english_where_there_are_languages(model):
    tokens = model.spec.tokens
    english = dict(tokens.languages)["en"]
    assert verify_prompt(model.spec, True) == [tokens.sot, english, tokens.transcribe]
    assert verify_prompt(model.spec, False)[-1] == tokens.no_timestamps
    only_english = tiny_model(vocab="en", layers=1).spec
    assert verify_prompt(only_english, True) == [only_english.tokens.sot]
