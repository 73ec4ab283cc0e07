"""Command lines written for other Whisper programs."""

import pytest
from typer.main import get_command

from mwc.cli.arguments import FLAGS, FOREIGN, normalise, refuse_empty, refuse_foreign
from mwc.cli.main import app
from mwc.runtime.errors import OptionError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--output_format", "json"], ["--output-format", "json"]),
        (["--output_format=json"], ["--output-format=json"]),
        (["--initial_prompt", "a_b"], ["--initial-prompt", "a_b"]),
        (["--initial_prompt=--a_b"], ["--initial-prompt=--a_b"]),
        (["--word_timestamps", "True"], ["--word-timestamps"]),
        (["--word_timestamps", "False"], ["--no-word-timestamps"]),
        (["--word-timestamps=false"], ["--no-word-timestamps"]),
        (["--condition_on_previous_text=True"], ["--condition-on-previous-text"]),
        (["--word-timestamps", "True.wav"], ["--word-timestamps", "True.wav"]),
        (["--without-timestamps"], ["--without-timestamps"]),
        (["--without-timestamps", "--task", "x"], ["--without-timestamps", "--task", "x"]),
        (["--no-without-timestamps"], ["--no-without-timestamps"]),
        (["my_model", "some_file.wav", "-o", "a_b"], ["my_model", "some_file.wav", "-o", "a_b"]),
        (
            ["--task", "--", "--word_timestamps", "True"],
            ["--task", "--", "--word_timestamps", "True"],
        ),
    ],
)
def test_spellings(typed: list[str], meant: list[str]) -> None:
    assert normalise(typed) == meant


@pytest.mark.parametrize("value", ["-m", "--a_b", "--word_timestamps", "--"])
def test_what_follows_an_option_is_its_value(value: str) -> None:
    words = ["--hotwords", value, "--output_format", "json"]
    meant = ["--hotwords", value, "--output-format", "json"]
    assert normalise(words, {"--hotwords", "--output-format"}) == meant
    refuse_foreign(meant, {"--hotwords", "--output-format"})


@pytest.mark.parametrize("word", ["--word-timestamps=yes", "--vad_filter="])
def test_a_flag_is_true_or_false(word: str) -> None:
    with pytest.raises(OptionError, match="True or False"):
        normalise([word])


def test_foreign_options_are_refused_with_advice() -> None:
    with pytest.raises(OptionError, match="mwc has no --compute-type: the precision is part"):
        refuse_foreign(["model", "a.wav", "--compute-type=int8"])
    refuse_foreign(["model", "a.wav", "--", "--compute-type"])


def run_options() -> dict[str, bool]:
    """Every spelling of every option of `mwc run`, and whether it is a flag."""
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    return {
        name: getattr(parameter, "is_flag", False)
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def test_flags_are_those_of_the_command() -> None:
    own = {"--quiet", "--help"}
    flags = {
        name
        for name, is_flag in run_options().items()
        if is_flag and not name.startswith("--no-") and name.startswith("--")
    }
    assert flags - own == FLAGS


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (["run", "", "a.wav"], "after run"),
        (["run", "model", ""], "after model"),
        (["run", "model", "a.wav", "-o", ""], "after -o"),
        (["run", "model", "a.wav", "--output-dir="], "after --output-dir"),
        ([""], "first"),
    ],
)
def test_an_empty_name_is_refused(line: list[str], where: str) -> None:
    with pytest.raises(OptionError, match=f"the argument {where} is empty, as a variable"):
        refuse_empty(line, {"-o", "--prefix"})


def test_empty_text_is_a_value() -> None:
    refuse_empty(["run", "model", "--prefix", "", "a.wav"], {"-o", "--prefix"})


def test_no_foreign_option_is_one_of_ours() -> None:
    assert not set(FOREIGN) & set(run_options())


@pytest.mark.parametrize("advice", sorted(set(FOREIGN.values())))
def test_advice_names_options_that_exist(advice: str) -> None:
    words = advice.replace(",", " ").replace(";", " ").replace("`", " ").replace(":", " ").split()
    known = {*run_options(), "--precision"}
    assert {word for word in words if word.startswith("--")} <= known
