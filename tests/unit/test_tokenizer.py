"""The tokenizer: text to tokens and back, prompts' endings, and files that do not fit."""

import base64
import json
from pathlib import Path

import pytest
from fake_decoder import fake_spec, fake_tokenizer

from mwc.runtime.errors import ArtifactError, OptionError
from mwc.runtime.tokenizer import SPECIAL_TOKENS_FILE, VOCABULARY_FILE, Tokenizer

TEXTS = [
    " Hello, world!",
    "  two  spaces\nand a line",
    "don't we'll 12345",
    "Größe naïve 東京は晴れ Привет 👋🏽",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(tmp_path: Path, text: str) -> None:
    tokenizer = fake_tokenizer(tmp_path, fake_spec())
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_timestamps_are_left_out_or_spelled_out(tmp_path: Path) -> None:
    spec = fake_spec()
    tokenizer = fake_tokenizer(tmp_path, spec)
    begin = spec.tokens.timestamp_begin
    ids = [begin, *b" Hi", begin + 54]
    assert tokenizer.decode(ids) == " Hi"
    assert tokenizer.decode_with_timestamps(ids) == "<|0.00|> Hi<|1.08|>"


def test_broken_utf8_becomes_a_replacement_character(tmp_path: Path) -> None:
    tokenizer = fake_tokenizer(tmp_path, fake_spec())
    assert tokenizer.decode([*b"a", "é".encode()[0]]) == "a\ufffd"


def test_ids_without_a_name_hold_no_text(tmp_path: Path) -> None:
    tokenizer = fake_tokenizer(tmp_path, fake_spec())
    assert tokenizer.decode_with_timestamps([*b"a", 1_000_000, *b"b"]) == "ab"


def test_sot_sequence_of_a_multilingual_model(tmp_path: Path) -> None:
    t = fake_spec().tokens
    tokenizer = fake_tokenizer(tmp_path, fake_spec())
    german = dict(t.languages)["de"]
    assert tokenizer.sot_sequence("de", "transcribe", True) == (t.sot, german, t.transcribe)
    assert tokenizer.sot_sequence("de", "translate", False) == (
        t.sot,
        german,
        t.translate,
        t.no_timestamps,
    )
    with pytest.raises(OptionError, match="no language 'xx'"):
        tokenizer.sot_sequence("xx", "transcribe", True)
    with pytest.raises(OptionError, match="no task 'summarise'"):
        tokenizer.sot_sequence("de", "summarise", True)


def test_sot_sequence_of_an_english_only_model(tmp_path: Path) -> None:
    spec = fake_spec(languages=())
    tokenizer = fake_tokenizer(tmp_path, spec)
    assert tokenizer.sot_sequence("en", "transcribe", True) == (spec.tokens.sot,)
    assert tokenizer.sot_sequence(None, "transcribe", False) == (
        spec.tokens.sot,
        spec.tokens.no_timestamps,
    )


def test_special_tokens_in_a_prompt_are_refused(tmp_path: Path) -> None:
    tokenizer = fake_tokenizer(tmp_path, fake_spec())
    with pytest.raises(OptionError, match="special token"):
        tokenizer.encode("so <|endoftext|> it goes")


@pytest.mark.parametrize("name", [VOCABULARY_FILE, SPECIAL_TOKENS_FILE])
def test_missing_and_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    fake_tokenizer(tmp_path, fake_spec())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=f"{name} is damaged"):
        Tokenizer(tmp_path, fake_spec().tokens)
    (tmp_path / name).write_bytes(b"\xff\xfe nonsense")
    with pytest.raises(ArtifactError, match=f"{name} is damaged"):
        Tokenizer(tmp_path, fake_spec().tokens)
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} cannot be read"):
        Tokenizer(tmp_path, fake_spec().tokens)


def test_files_of_another_model_are_refused(tmp_path: Path) -> None:
    fake_tokenizer(tmp_path, fake_spec())
    ids = json.loads((tmp_path / SPECIAL_TOKENS_FILE).read_text())
    ids["<|endoftext|>"] = 7
    (tmp_path / SPECIAL_TOKENS_FILE).write_text(json.dumps(ids))
    with pytest.raises(ArtifactError, match="the manifest says 256"):
        Tokenizer(tmp_path, fake_spec().tokens)


@pytest.mark.parametrize("multilingual", [False, True])
@pytest.mark.parametrize("empty", ["", "="])
def test_same_ids_and_texts_as_openai_whisper(
    tmp_path: Path, multilingual: bool, empty: str
) -> None:
    whisper = pytest.importorskip("whisper")
    theirs = whisper.tokenizer.get_tokenizer(multilingual)
    ranks = theirs.encoding._mergeable_ranks
    lines = [f"{base64.b64encode(token).decode() or empty} {rank}" for token, rank in ranks.items()]
    (tmp_path / VOCABULARY_FILE).write_text("\n".join(lines) + "\n")
    (tmp_path / SPECIAL_TOKENS_FILE).write_text(json.dumps(theirs.special_tokens))
    spec = fake_spec(languages=("en",) if multilingual else ())
    tokens = type(spec.tokens)(
        **{
            **vars(spec.tokens),
            "eot": theirs.eot,
            "sot": theirs.sot,
            "timestamp_begin": theirs.timestamp_begin,
            "transcribe": theirs.transcribe if multilingual else None,
            "languages": (("en", theirs.sot + 1),) if multilingual else (),
        }
    )
    ours = Tokenizer(tmp_path, tokens)
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        timed = [theirs.timestamp_begin, *ids, theirs.timestamp_begin + 100]
        assert ours.decode(timed) == theirs.decode(timed)
        assert ours.decode_with_timestamps(timed) == theirs.decode_with_timestamps(timed)
    assert ours.sot_sequence("en", "transcribe", True) == theirs.sot_sequence
