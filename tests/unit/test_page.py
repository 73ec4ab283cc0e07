"""The page's structure, and its script in a JavaScript engine without a browser around it."""

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from said import segment, spoken, transcript

import mwc.runtime.writers
from mwc.runtime.errors import AudioError
from mwc.runtime.report import Attempt, Coverage, WindowReport
from mwc.runtime.transcript import Word
from mwc.runtime.writers.media import audio_url, media_type
from mwc.runtime.writers.page_report import doubts, short_clock

HOSTILE = '</script><img src=x onerror="alert(1)">&amp;'
SAID = transcript(
    segment(0, " one two,", 0.0, 0.9, spoken(" one", " two,")),
    segment(1, "", 1.0, 1.0, ()),
    segment(2, f" {HOSTILE}", 1.0, 1.4, spoken(f" {HOSTILE}", start=1.0)),
)
VOID = {"meta", "input"}


class Page(HTMLParser):
    """What a page holds; parsing it fails where a tag is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Attributes of each element of a tag or a class."""
        return [a for tag, a in self.tags if tag == kind or a.get("class") == kind]


def test_words_with_their_times_and_doubts() -> None:
    page = Page(SAID.to_html())
    assert page.all("word") == [
        {"class": "word", "data-start": "0.000", "data-end": "0.400", "title": "90 %"},
        {
            "class": "word",
            "data-start": "0.500",
            "data-end": "0.900",
            "data-doubt": "1",
            "title": "80 %",
        },
        {"class": "word", "data-start": "1.000", "data-end": "1.400", "title": "90 %"},
    ]
    assert page.texts["span"] == f"onetwo,{HOSTILE}"
    assert len(page.all("segment")) == 2  # a segment without text is in the report only
    assert len(page.all("tr")) == 4
    assert {"dir": "auto"} in page.all("p")


@pytest.mark.parametrize(
    ("texts", "shown"),
    [((" one", " two"), " one two"), (("你", "好"), "你好"), (("a ", "b", " "), "a b")],
)
def test_spaces_are_between_words_and_not_in_them(texts: tuple[str, ...], shown: str) -> None:
    html = transcript(segment(0, "x", 0.0, 1.0, spoken(*texts))).to_html()
    paragraph = re.search(r'<p dir="auto">(.*)</p>', html)
    assert paragraph is not None
    assert re.sub("<[^>]*>", "", paragraph[1]).strip() == shown.strip()
    assert not re.search(r"> [^<]|[^>] </span>", paragraph[1].replace("</span> <", "</span><"))


def test_nothing_but_the_page_itself_is_loaded_or_run(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"ID3")
    text = SAID.to_html(tmp_path / "a.mp3", title=HOSTILE)
    page = Page(text)
    (policy,) = (tag["content"] for tag in page.all("meta") if "http-equiv" in tag)
    assert policy.startswith("default-src 'none';")
    for kind in ("style", "script"):
        digest = hashlib.sha256(page.texts[kind].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert not re.search(r"https?:|url\(|@import", text)
    assert not [name for _, tag in page.tags for name in tag if name.startswith("on")]
    assert [tag["src"] for _, tag in page.tags if "src" in tag] == ["data:audio/mpeg;base64,SUQz"]
    assert page.texts["title"] == page.texts["h1"] == HOSTILE


def test_languages() -> None:
    hebrew = replace(SAID, language="he")
    page = Page(hebrew.to_html())
    assert page.all("main") == [{"lang": "he"}]
    assert page.all("html") == [{"lang": "en"}]
    assert "Hebrew (50 %) · 0:01.4" in page.texts["p"]
    assert Page(hebrew.to_html(text_language="en")).all("main") == [{"lang": "en"}]


def test_a_segment_without_words_is_shaded_as_a_whole() -> None:
    unsure = replace(segment(0, " a b", 0.0, 1.0), avg_logprob=-1.5)
    (word,) = Page(transcript(unsure).to_html()).all("word")
    assert (word["data-doubt"], word["title"]) == ("4", "22 %")


def test_speech_without_text_is_listed_and_can_be_heard() -> None:
    missing = Coverage("silero-vad 6.2", 12.5, ((1.0, 2.5), (61.25, 62.0)))
    page = Page(replace(SAID, coverage=missing).to_html())
    assert page.texts["p"].count("silero-vad 6.2 found 12.5 s of speech; 2.2 s of it have no text")
    starts = [button["data-start"] for button in page.all("time")]
    assert starts[-5:-3] == ["1.000", "61.250"]
    whole = Page(replace(SAID, coverage=Coverage("silero-vad 6.2", 12.5, ())).to_html())
    assert "all of it has text" in whole.texts["p"]
    assert "Speech was not detected" in Page(SAID.to_html()).texts["p"]


def test_windows_without_text_and_windows_decoded_again_are_told() -> None:
    again = (
        Attempt(0.0, -0.5, 3.0, "compression_ratio 3.00 is above 2.4"),
        Attempt(0.2, -0.5, 1.0, None),
    )
    windows = (
        WindowReport(0.0, 30.0, "en", None, 0.1, again, None),
        WindowReport(30.0, 60.0, "en", None, 0.1, again[1:], None),
        WindowReport(60.0, 62.0, "en", None, None, (), "less than 0.1 s of speech detected"),
    )
    page = Page(replace(SAID, windows=windows).to_html())
    assert "2 of 3 windows skipped or decoded again" in page.texts["summary"]
    told = page.texts["li"]
    assert " at 0: compression_ratio 3.00 is above 2.4" in told
    assert " no text: less than 0.1 s of speech detected" in told


def test_values_beyond_a_threshold_are_marked() -> None:
    fine = segment(0, " a", 0.0, 1.0)
    assert not doubts(fine)
    bad = replace(fine, avg_logprob=-1.1, compression_ratio=2.5, no_speech_prob=0.7)
    assert doubts(bad) == {"avg_logprob", "compression_ratio", "no_speech_prob"}
    page = Page(transcript(fine, bad).to_html())
    assert len(page.all("doubtful")) == 3
    assert page.texts["summary"] == "2 segments, 1 doubtful"


def test_small_audio_is_embedded_and_large_audio_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = tmp_path / "über #1.opus"
    audio.write_bytes(b"Ogg")
    assert audio_url(audio, tmp_path) == "data:audio/ogg;base64,T2dn"
    link = "%C3%BCber%20%231.opus"
    assert audio_url(audio, tmp_path, embed_bytes=2) == link
    assert audio_url(audio, tmp_path / "a" / "b", embed_bytes=2) == f"../../{link}"

    monkeypatch.chdir(tmp_path)
    large = Path("a:b.wav")
    with large.open("wb") as file:
        file.truncate((8 << 20) + 1)
    (player,) = Page(SAID.to_html(large)).all("audio")
    assert player["src"] == "a%3Ab.wav"
    assert SAID.to_html(large, folder="..").count(f'src="{tmp_path.name}/a%3Ab.wav"') == 1


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    audio = tmp_path / os.fsdecode(b"caf\xe9.wav")
    audio.write_bytes(b"RIFF")
    assert audio_url(audio, tmp_path, embed_bytes=2) == "caf%E9.wav"
    page = SAID.to_html(audio)
    assert "<title>caf?.wav</title>" in page
    page.encode("utf-8")


def test_media_types() -> None:
    assert media_type(Path("A.MP3")) == "audio/mpeg"
    assert media_type(Path("a.flac")) == "audio/flac"
    assert media_type(Path("a")) == "application/octet-stream"


def test_audio_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a\.wav cannot be put into the page: No such file"):
        SAID.to_html(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0:00.0"), (59.96, "1:00.0"), (245.04, "4:05.0"), (3845.5, "1:04:05.5")],
)
def test_clock(seconds: float, text: str) -> None:
    assert short_clock(seconds) == text


DOCUMENT = """
const listeners = {};
const on = (owner) => (event, act) => (listeners[owner + event] ??= []).push(act);
function element(data) {
  const set = new Set();
  return {
    dataset: data, checked: true, hidden: true, attributes: {}, addEventListener: on(""),
    classList: {
      add: (name) => set.add(name), remove: (name) => set.delete(name),
      has: (name) => set.has(name),
      toggle: (name, wanted) => (wanted ? set.add(name) : set.delete(name)),
    },
    setAttribute(name, value) { this.attributes[name] = value; },
    removeAttribute(name) { delete this.attributes[name]; },
    scrollIntoView() {}, closest() { return data.start === undefined ? null : this; },
  };
}
const found = {".word": WORDS.map(element), ".segment": SEGMENTS.map(element)};
const audio = {
  currentTime: 0, paused: true, error: null, addEventListener: on("audio "),
  play() { this.paused = false; }, pause() { this.paused = true; },
};
const named = {audio, shade: element({}), follow: element({}), trouble: element({})};
const document = {
  body: element({}), addEventListener: on("document "),
  getElementById: (id) => named[id], querySelectorAll: (what) => found[what],
};
const getSelection = () => ({isCollapsed: true});
const requestAnimationFrame = () => 1;
const fire = (name, event) => listeners[name].forEach((act) => act(event));
function lit(time) {
  audio.currentTime = time;
  fire("audio timeupdate");
  return found[".word"].flatMap((node, i) => node.classList.has("lit") ? [i] : []);
}
"""


def script_with(words: list[Word]) -> Any:
    """A JavaScript engine in which the page's script has run over these words, in one segment."""
    engine = pytest.importorskip("py_mini_racer").MiniRacer()
    data = [{"start": str(word.start), "end": str(word.end)} for word in words]
    whole = [{"start": str(words[0].start), "end": str(words[-1].end)}]
    engine.eval(f"const WORDS = {json.dumps(data)}, SEGMENTS = {json.dumps(whole)};{DOCUMENT}")
    engine.eval((Path(mwc.runtime.writers.__file__).parent / "page.js").read_text("utf-8"))
    return engine


def lit(engine: Any, time: float) -> list[int]:
    found: list[int] = json.loads(engine.eval(f"JSON.stringify(lit({time}))"))
    return found


def test_script_lights_the_word_being_said() -> None:
    words = list(spoken(*"abcdefg", start=1.0))
    engine = script_with(words)
    for time in (0.0, 0.99, 1.0, 1.39, 1.4, 1.45, 2.0, 4.1, 4.39, 4.4, 100.0, 3.2):
        said = [i for i, word in enumerate(words) if word.start <= time < word.end]
        assert lit(engine, time) == said, time
    current = "JSON.stringify(found['.segment'][0].attributes)"
    assert engine.eval(current) == '{"aria-current":"true"}'
    lit(engine, 0.5)
    assert engine.eval(current) == "{}"


def test_script_lights_the_latest_of_words_out_of_order() -> None:
    engine = script_with([Word("b", 1.0, 2.0, 1.0), Word("a", 0.0, 1.2, 1.0)])
    assert [lit(engine, time) for time in (0.5, 1.1, 1.9)] == [[1], [0], [0]]


def test_script_seeks_and_plays_where_a_word_is_clicked() -> None:
    engine = script_with(list(spoken(" a", " b")))
    engine.eval("fire('document click', {target: found['.word'][1]})")
    assert engine.eval("audio.currentTime") == 0.5
    assert engine.eval("audio.paused") is False
    engine.eval("fire('document click', {target: named.shade})")
    assert engine.eval("audio.currentTime") == 0.5


def test_script_tells_that_the_audio_cannot_be_played() -> None:
    engine = script_with(list(spoken(" a")))
    assert engine.eval("named.trouble.hidden") is True
    engine.eval("fire('audio error')")
    assert engine.eval("named.trouble.hidden") is False
