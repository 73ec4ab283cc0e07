"""From configuration files to a spec: every family is accepted, every contradiction refused."""

import dataclasses
import json
from typing import Any

import pytest
from tiny_checkpoint import tiny_weights, write_tiny_checkpoint
from tiny_vocabulary import tiny_vocabulary

from mwc.compiler.checkpoint import Checkpoint, open_checkpoint
from mwc.compiler.checkpoint_tensors import check_tensors, expected_tensors
from mwc.compiler.config import read_spec
from mwc.runtime.errors import UnsupportedModel, WeightMismatch
from mwc.runtime.spec import ModelSpec, WhisperSpec, from_json, to_json


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("en")
    return open_checkpoint(write_tiny_checkpoint(folder, vocab="en", decoder_layers=4))


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("multilingual")
    return open_checkpoint(write_tiny_checkpoint(folder, decoder_layers=4))


def with_config(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return _changed(checkpoint, "config", changes)


def with_generation(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return _changed(checkpoint, "generation_config", changes)


def _changed(checkpoint: Checkpoint, field: str, changes: dict[str, Any]) -> Checkpoint:
    values = {**getattr(checkpoint, field), **changes}
    kept = {key: value for key, value in values.items() if value is not ...}
    return dataclasses.replace(checkpoint, **{field: kept})


def refusal(checkpoint: Checkpoint) -> str:
    with pytest.raises(UnsupportedModel) as caught:
        read_spec(checkpoint)
    return str(caught.value)


def test_complete_files_need_no_notes(english: Checkpoint, multilingual: Checkpoint) -> None:
    for checkpoint in (english, multilingual):
        spec, notes = read_spec(checkpoint)
        assert notes == ()
        assert from_json(WhisperSpec, json.loads(json.dumps(to_json(spec)))) == spec


def test_english_has_no_language_and_no_task(english: Checkpoint) -> None:
    tokens = read_spec(english)[0].tokens
    special = english.vocabulary.special_tokens
    assert (tokens.languages, tokens.transcribe, tokens.translate) == ((), None, None)
    assert not tokens.is_multilingual
    assert (tokens.eot, tokens.sot) == (special["<|endoftext|>"], special["<|endoftext|>"] + 1)
    assert tokens.timestamp_begin == tokens.no_timestamps + 1
    assert tokens.begin_suppress_tokens == (220, tokens.eot)


def test_multilingual_tokens(multilingual: Checkpoint) -> None:
    tokens = read_spec(multilingual)[0].tokens
    assert tokens.languages[0] == ("en", tokens.sot + 1)
    assert tokens.languages[-1] == ("su", tokens.sot + 99)
    assert (tokens.translate, tokens.transcribe) == (tokens.sot + 100, tokens.sot + 101)
    assert (tokens.alignment_heads, tokens.alignment_heads_derived) == (((3, 0), (3, 1)), False)


FAMILIES = {
    # name: (d_model, heads, encoder layers, decoder layers, mel bins); openai/whisper's model
    # card, and the config.json of the large-v3-turbo and distil-whisper models.
    "tiny": (384, 6, 4, 4, 80),
    "base": (512, 8, 6, 6, 80),
    "small": (768, 12, 12, 12, 80),
    "medium": (1024, 16, 24, 24, 80),
    "large-v2": (1280, 20, 32, 32, 80),
    "large-v3": (1280, 20, 32, 32, 128),
    "large-v3-turbo": (1280, 20, 32, 4, 128),
    "distil-large-v3": (1280, 20, 32, 2, 128),
    "distil-small.en": (768, 12, 12, 4, 80),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_accepted(multilingual: Checkpoint, name: str) -> None:
    d_model, heads, encoder_layers, decoder_layers, n_mels = FAMILIES[name]
    checkpoint = with_config(
        multilingual,
        d_model=d_model,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_ffn_dim=4 * d_model,
        decoder_ffn_dim=4 * d_model,
        num_mel_bins=n_mels,
    )
    checkpoint = with_generation(checkpoint, alignment_heads=[[decoder_layers - 1, 0]])
    checkpoint = dataclasses.replace(checkpoint, preprocessor_config={"feature_size": n_mels})
    model = read_spec(checkpoint)[0].model
    assert model == ModelSpec(
        n_mels=n_mels,
        n_audio_ctx=1500,
        n_audio_state=d_model,
        n_audio_head=heads,
        n_audio_layer=encoder_layers,
        n_audio_mlp=4 * d_model,
        n_vocab=checkpoint.config["vocab_size"],
        n_text_ctx=448,
        n_text_state=d_model,
        n_text_head=heads,
        n_text_layer=decoder_layers,
        n_text_mlp=4 * d_model,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2', not 'whisper'"),
        ({"model_type": ...}, "model_type is None"),
        ({"architectures": ["WhisperForAudioClassification"]}, "WhisperForAudioClassification"),
        ({"activation_function": "relu"}, "activation_function is 'relu', not 'gelu'"),
        ({"scale_embedding": True}, "scale_embedding is True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"num_mel_bins": 64}, "num_mel_bins is 64, not 80 or 128"),
        ({"max_source_positions": 750}, "max_source_positions is 750, not 1500"),
        ({"max_target_positions": 1024}, "max_target_positions is 1024, not 448"),
        ({"encoder_layers": 0}, "encoder_layers is 0, not a positive number"),
        ({"encoder_layers": 10**9}, "encoder_layers is 1000000000, of a checkpoint of"),
        ({"decoder_layers": 10**9}, "decoder_layers is 1000000000, of a checkpoint of"),
        ({"decoder_layers": "4"}, "decoder_layers is '4', not a positive number"),
        ({"d_model": ...}, "d_model is None"),
        ({"decoder_attention_heads": 4}, "heads of 32 of a d_model of 128"),
        ({"encoder_attention_heads": 3}, "heads of 42.6667"),
        ({"encoder_ffn_dim": 250}, "encoder_ffn_dim is 250, no multiple of 64"),
        ({"decoder_ffn_dim": 496}, "decoder_ffn_dim is 496, no multiple of 64"),
        ({"architectures": 7}, "its architecture is 7, not WhisperForConditionalGeneration"),
        ({"architectures": [["WhisperModel"]]}, "its architecture is [['WhisperModel']]"),
    ],
)
def test_what_is_no_whisper_is_refused(
    multilingual: Checkpoint, changes: dict[str, Any], words: str
) -> None:
    assert words in refusal(with_config(multilingual, **changes))


def test_all_problems_are_reported_at_once(multilingual: Checkpoint) -> None:
    message = refusal(with_config(multilingual, activation_function="relu", num_mel_bins=64))
    assert "relu" in message
    assert "64" in message


def test_contradicting_preprocessor_is_refused(multilingual: Checkpoint) -> None:
    other = dataclasses.replace(multilingual, preprocessor_config={"feature_size": 128})
    assert "feature_size 128, not 80" in refusal(other)
    other = dataclasses.replace(multilingual, preprocessor_config={"hop_length": 200})
    assert "hop_length 200, not 160" in refusal(other)


def test_missing_preprocessor_is_derived_and_noted(multilingual: Checkpoint) -> None:
    spec, notes = read_spec(dataclasses.replace(multilingual, preprocessor_config={}))
    assert spec == read_spec(multilingual)[0]
    assert "80 mel bins" in notes[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("no_timestamps_token_id", 50363),
        ("prev_sot_token_id", 50361),
        ("eos_token_id", 50257),
        ("lang_to_id", {"<|en|>": 50259}),
        ("lang_to_id", {"<|xx|>": 50259}),
        ("task_to_id", {"translate": 50358}),
    ],
)
def test_ids_of_another_vocabulary_are_refused(
    multilingual: Checkpoint, key: str, value: Any
) -> None:
    message = refusal(with_generation(multilingual, **{key: value}))
    assert key in message
    assert "the vocabulary gives" in message


def test_nothing_stated_at_all_is_derived_and_noted(
    english: Checkpoint, multilingual: Checkpoint
) -> None:
    for checkpoint in (english, multilingual):
        stated, _ = read_spec(checkpoint)
        derived, notes = read_spec(dataclasses.replace(checkpoint, generation_config={}))
        heads = tuple((layer, head) for layer in (2, 3) for head in (0, 1))
        assert derived.tokens == dataclasses.replace(
            stated.tokens, alignment_heads=heads, alignment_heads_derived=True
        )
        for word in ("is_multilingual", "alignment_heads", "suppress_tokens"):
            assert any(word in note for note in notes), word


def test_other_suppressed_tokens_are_kept_and_noted(multilingual: Checkpoint) -> None:
    usual = read_spec(multilingual)[0].tokens.suppress_tokens
    spec, notes = read_spec(with_generation(multilingual, suppress_tokens=[*usual[1:], 70]))
    assert spec.tokens.suppress_tokens == tuple(sorted({*usual[1:], 70}))
    assert "1 more" in notes[0]
    assert "1 fewer" in notes[0]
    empty, notes = read_spec(with_generation(multilingual, suppress_tokens=[]))
    assert empty.tokens.suppress_tokens == ()
    assert f"{len(usual)} fewer" in notes[0]


def test_suppressed_tokens_of_older_configs(multilingual: Checkpoint) -> None:
    checkpoint = with_generation(multilingual, suppress_tokens=..., begin_suppress_tokens=...)
    checkpoint = with_config(checkpoint, suppress_tokens=[9, 8], begin_suppress_tokens=[220])
    tokens = read_spec(checkpoint)[0].tokens
    assert (tokens.suppress_tokens, tokens.begin_suppress_tokens) == ((8, 9), (220,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suppress_tokens": [-1]}, "suppress_tokens"),
        ({"suppress_tokens": [999999]}, "suppress_tokens"),
        ({"begin_suppress_tokens": "220"}, "begin_suppress_tokens"),
        ({"alignment_heads": [[-1, 0]]}, "alignment_heads"),
        ({"alignment_heads": [[0, 0, 0]]}, "alignment_heads"),
        ({"max_initial_timestamp_index": "1.0"}, "max_initial_timestamp_index"),
        ({"lang_to_id": ["<|en|>"]}, "lang_to_id ['<|en|>'], no table"),
        ({"task_to_id": 7}, "task_to_id 7, no table"),
    ],
)
def test_lists_that_make_no_sense_are_refused(
    multilingual: Checkpoint, changes: dict[str, Any], words: str
) -> None:
    assert words in refusal(with_generation(multilingual, **changes))


def test_alignment_heads_of_a_larger_teacher_are_derived(multilingual: Checkpoint) -> None:
    spec, notes = read_spec(with_generation(multilingual, alignment_heads=[[3, 1], [25, 2]]))
    assert spec.tokens.alignment_heads_derived
    assert spec.tokens.alignment_heads == ((2, 0), (2, 1), (3, 0), (3, 1))
    assert "does not have" in notes[0]


def test_fewer_languages_are_noted(multilingual: Checkpoint) -> None:
    some = dict(list(multilingual.generation_config["lang_to_id"].items())[:3])
    spec, notes = read_spec(with_generation(multilingual, lang_to_id=some))
    assert [code for code, _ in spec.tokens.languages] == ["en", "zh", "de"]
    assert "3 of the vocabulary's 99" in notes[0]


def test_a_token_that_looks_like_a_language_is_none(multilingual: Checkpoint) -> None:
    size = multilingual.config["vocab_size"]
    special = {**multilingual.vocabulary.special_tokens, "<|pad|>": size, "<|foo|>": size + 1}
    added = dataclasses.replace(
        with_config(with_generation(multilingual, lang_to_id=...), vocab_size=size + 2),
        vocabulary=dataclasses.replace(multilingual.vocabulary, special_tokens=special),
    )
    assert read_spec(added)[0].tokens.languages == read_spec(multilingual)[0].tokens.languages


def test_padded_and_added_ids_are_noted(multilingual: Checkpoint) -> None:
    size = multilingual.config["vocab_size"]
    notes = read_spec(with_config(multilingual, vocab_size=size + 6))[1]
    assert f"6 of {size + 6} ids have no token" in notes[0]
    special = {**multilingual.vocabulary.special_tokens, "<|laugh|>": size}
    vocabulary = dataclasses.replace(multilingual.vocabulary, special_tokens=special)
    notes = read_spec(
        dataclasses.replace(with_config(multilingual, vocab_size=size + 1), vocabulary=vocabulary)
    )[1]
    assert "<|laugh|>" in notes[0]


def test_tensors_that_do_not_fit_are_all_listed(multilingual: Checkpoint) -> None:
    spec, _ = read_spec(with_config(multilingual, decoder_layers=5, encoder_layers=1))
    bigger = dataclasses.replace(spec, model=dataclasses.replace(spec.model, n_vocab=9999))
    with pytest.raises(WeightMismatch) as caught:
        check_tensors(multilingual, bigger)
    assert "\n" not in str(caught.value)  # a message is one line
    listed = str(caught.value).partition("configuration: ")[2].split("; ")
    assert "missing: decoder.layers.4.fc1.weight [512, 128]" in listed
    assert "left over: encoder.layers.1.fc1.weight [512, 128]" in listed
    shape = [multilingual.config["vocab_size"], 128]
    assert f"decoder.embed_tokens.weight has shape {shape}, not [9999, 128]" in listed
    per_layer = {stack: sum(stack in n for n in expected_tensors(spec.model)) for stack in
                 ("decoder.layers.0", "encoder.layers.0")}  # fmt: skip
    assert len(listed) == 2 + sum(per_layer.values())


def test_expected_tensors_are_those_written(multilingual: Checkpoint) -> None:
    weights = tiny_weights(multilingual.config, tiny_vocabulary("multilingual"), 0)
    expected = expected_tensors(read_spec(multilingual)[0].model)
    assert {f"model.{n}": s for n, s in expected.items()} == {
        n: w.shape for n, w in weights.items()
    }
