"""Vocabularies: from every file that carries one to the two files the runtime reads."""

import base64
import json
from pathlib import Path

import pytest
from tiny_checkpoint import suppressed_tokens, write_tiny_checkpoint
from tiny_layouts import write_tiktoken
from tiny_vocabulary import TinyVocabulary, tiny_vocabulary, token_bytes

from mwc.compiler.checkpoint.vocabulary_files import gpt2_characters, vocabulary_from_path
from mwc.compiler.vocabulary import (
    LANGUAGE_CODES,
    Vocabulary,
    build_vocabulary,
    write_vocabulary,
)
from mwc.runtime.errors import CheckpointError, UnsupportedModel

KINDS = ("en", "multilingual", "v3")


def expected(vocabulary: TinyVocabulary) -> Vocabulary:
    return Vocabulary(
        tuple(token_bytes(t) for t in vocabulary.tokens), dict(vocabulary.special_tokens)
    )


def build(path: Path, n_vocab: int) -> Vocabulary:
    raw = vocabulary_from_path(path)
    return build_vocabulary(raw.tokens, raw.named, n_vocab, raw.origin)


@pytest.mark.parametrize("kind", KINDS)
def test_hugging_face_files_in_any_combination(tmp_path: Path, kind: str) -> None:
    vocabulary = tiny_vocabulary(kind)
    folder = write_tiny_checkpoint(tmp_path / "all", vocab=kind)
    combinations = {
        "vocab.json": ["vocab.json", "added_tokens.json"],
        "tokenizer.json": ["tokenizer.json"],
        "": ["vocab.json", "tokenizer.json"],
    }
    for i, (file, names) in enumerate(combinations.items()):
        part = tmp_path / str(i)
        part.mkdir()
        for name in names:
            (part / name).write_bytes((folder / name).read_bytes())
        assert build(part / file, vocabulary.n_vocab) == expected(vocabulary)


def test_special_tokens_of_tokenizer_config_alone(tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary("multilingual")
    folder = write_tiny_checkpoint(tmp_path)
    (folder / "added_tokens.json").unlink()
    (folder / "tokenizer.json").unlink()
    decoder = {str(i): {"content": name} for name, i in vocabulary.special_tokens.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    assert build(folder, vocabulary.n_vocab) == expected(vocabulary)


@pytest.mark.parametrize("kind", KINDS)
def test_tiktoken_file_gets_its_special_tokens_in_openai_order(tmp_path: Path, kind: str) -> None:
    vocabulary = tiny_vocabulary(kind)
    path = tmp_path / "vocabulary.tiktoken"
    write_tiktoken(path, vocabulary)
    assert build(path, vocabulary.n_vocab) == expected(vocabulary)


@pytest.mark.parametrize("as_json", [False, True])
def test_ctranslate2_lists(tmp_path: Path, as_json: bool) -> None:
    vocabulary = tiny_vocabulary("multilingual")
    folder = write_tiny_checkpoint(tmp_path, layout="ct2")
    (folder / "tokenizer.json").unlink()
    if as_json:
        lines = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]
        (folder / "vocabulary.txt").unlink()
        (folder / "vocabulary.json").write_text(json.dumps(lines))
    assert build(folder, vocabulary.n_vocab) == expected(vocabulary)


@pytest.mark.parametrize("kind", KINDS)
def test_written_files_are_read_back(tmp_path: Path, kind: str) -> None:
    vocabulary = expected(tiny_vocabulary(kind))
    write_vocabulary(vocabulary, tmp_path / "tokenizer")
    lines = (tmp_path / "tokenizer" / "vocab.tiktoken").read_text().splitlines()
    assert [int(line.split(" ")[1]) for line in lines] == list(range(len(vocabulary.tokens)))
    assert base64.b64decode(lines[65].split(" ")[0]) == vocabulary.tokens[65]
    special = json.loads((tmp_path / "tokenizer" / "special_tokens.json").read_text())
    assert special == vocabulary.special_tokens
    assert sum(name[2].isdigit() for name in special) == 1501
    assert build(tmp_path / "tokenizer", vocabulary.n_ids) == vocabulary


def test_timestamps_are_added_where_files_name_none() -> None:
    vocabulary = expected(tiny_vocabulary("en"))
    named = {n: i for n, i in vocabulary.special_tokens.items() if not n[2].isdigit()}
    assert build_vocabulary(vocabulary.tokens, named, 9999, "x") == vocabulary


def test_older_names_are_translated() -> None:
    vocabulary = expected(tiny_vocabulary("multilingual"))
    older = {"<|nospeech|>": "<|nocaptions|>", "<|he|>": "<|iw|>"}
    named = {older.get(n, n): i for n, i in vocabulary.special_tokens.items()}
    assert build_vocabulary(vocabulary.tokens, named, 9999, "x") == vocabulary


def test_byte_characters_are_those_of_gpt2() -> None:
    table = gpt2_characters()
    assert sorted(table.values()) == list(range(256))
    assert (table["Ġ"], table["Ċ"], table["!"], table["ÿ"]) == (32, 10, 33, 255)


@pytest.mark.parametrize("kind", KINDS)
def test_suppressed_tokens_of_the_tiny_vocabulary(kind: str) -> None:
    vocabulary = tiny_vocabulary(kind)
    assert list(expected(vocabulary).suppress_tokens()) == suppressed_tokens(vocabulary)


@pytest.mark.parametrize("kind", ["en", "multilingual"])
def test_real_vocabularies_against_openai_whisper(kind: str) -> None:
    whisper = pytest.importorskip("whisper")
    tokenizer = pytest.importorskip("whisper.tokenizer").get_tokenizer(kind != "en")
    name = "gpt2" if kind == "en" else "multilingual"
    path = Path(whisper.__file__).parent / "assets" / f"{name}.tiktoken"
    ours = build(path, tokenizer.encoding.n_vocab)
    assert dict(ours.special_tokens) == tokenizer.special_tokens
    assert ours.non_speech_tokens() == tokenizer.non_speech_tokens
    assert ours.looks_multilingual == (kind != "en")
    text = " Naïve, said the cat's 3 friends -- (LAUGHS) 你好\n"
    assert ours.encode(text) == tokenizer.encode(text)


def test_language_codes_against_openai_whisper() -> None:
    languages = pytest.importorskip("whisper.tokenizer").LANGUAGES
    assert tuple(languages) == LANGUAGE_CODES


def refusal(vocabulary: Vocabulary, n_vocab: int = 9999, **changes: int | None) -> str:
    special = dict(vocabulary.special_tokens)
    for name, i in changes.items():
        special.pop(f"<|{name}|>", None)
        if i is not None:
            special[f"<|{name}|>"] = i
    with pytest.raises(CheckpointError) as caught:
        build_vocabulary(vocabulary.tokens, special, n_vocab, "the files")
    return str(caught.value)


def test_contradictions_are_refused() -> None:
    vocabulary = expected(tiny_vocabulary("en"))
    special = vocabulary.special_tokens
    assert "<|startofprev|>" in refusal(vocabulary, startofprev=None)
    assert "same id" in refusal(vocabulary, startofprev=special["<|nospeech|>"])
    assert "text tokens" in refusal(vocabulary, startofprev=5)
    assert f"only {special['<|0.00|>']} rows" in refusal(vocabulary, special["<|0.00|>"])
    assert "0.02 s" in refusal(vocabulary, **{"1.00": 9000})


def test_missing_bytes_and_repeated_tokens_are_refused() -> None:
    vocabulary = expected(tiny_vocabulary("en"))
    special = dict(vocabulary.special_tokens)
    with pytest.raises(UnsupportedModel, match="single-byte token 33"):
        build_vocabulary((b"\x00\x00", *vocabulary.tokens[1:]), special, 9999, "x")
    with pytest.raises(CheckpointError, match="twice"):
        build_vocabulary((*vocabulary.tokens[:-1], b"a"), special, 9999, "x")


def test_tiktoken_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.tiktoken"
    write_tiktoken(path, tiny_vocabulary("en"))
    with pytest.raises(UnsupportedModel, match="not the model's tokenizer"):
        build(path, 51865)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab.json", "{", "not valid JSON"),
        ("vocab.json", "[]", "not an object"),
        ("vocab.json", '{"a": "b"}', "not a number"),
        ("vocab.json", '{"a": 0, "b": 2}', "has no text token with the id 1"),
        ("vocab.json", '{"\u4f60": 0}', "stands for no byte"),
        ("tokenizer.json", "{}", "no BPE vocabulary"),
        ("vocabulary.json", "{}", "not a list"),
        ("vocabulary.txt", "a\nb\n", "no <|endoftext|>"),
        ("x.tiktoken", "IQ== 0\nIg== 2\n", "line 2"),
        ("x.tiktoken", "IQ== 0\nI*g== 1\n", "line 2"),
        ("x.tiktoken", "what is this\n", "line 1"),
        ("notes.md", "# Notes", "no tokenizer"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=words.replace("|", r"\|")):
        vocabulary_from_path(tmp_path / name)


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path)
    added = json.loads((folder / "added_tokens.json").read_text())
    added["<|startofprev|>"] += 1
    (folder / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(CheckpointError, match="startofprev"):
        vocabulary_from_path(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        vocabulary_from_path(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        vocabulary_from_path(tmp_path)
