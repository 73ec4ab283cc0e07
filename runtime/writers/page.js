// The transcript page: lights the words as they are said, and seeks to what is clicked.
"use strict";
(() => {
  const audio = document.getElementById("audio");
  const byTime = (selector) =>
    [...document.querySelectorAll(selector)]
      .map((node) => ({ node, start: +node.dataset.start, end: +node.dataset.end }))
      .sort((a, b) => a.start - b.start);
  const words = byTime(".word");
  const segments = byTime(".segment");
  const box = (id) => document.getElementById(id);

  // The last of the sorted items that has begun, where it has not ended yet.
  function at(items, time) {
    let low = 0;
    let high = items.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (items[middle].start <= time) low = middle + 1;
      else high = middle;
    }
    const item = items[low - 1];
    return item && time < item.end ? item : null;
  }

  let litWord = null;
  let litSegment = null;
  function light() {
    const time = audio.currentTime;
    const word = at(words, time);
    if (word !== litWord) {
      if (litWord) litWord.node.classList.remove("lit");
      if (word) word.node.classList.add("lit");
      litWord = word;
    }
    const segment = at(segments, time);
    if (segment !== litSegment) {
      if (litSegment) litSegment.node.removeAttribute("aria-current");
      if (segment) segment.node.setAttribute("aria-current", "true");
      litSegment = segment;
      if (segment && box("follow").checked && !audio.paused) {
        segment.node.scrollIntoView({ block: "nearest" });
      }
    }
  }

  function shade() {
    document.body.classList.toggle("shaded", box("shade").checked);
  }
  box("shade").addEventListener("change", shade);
  shade();
  if (!audio) return;

  let frame = 0;
  function tick() {
    light();
    frame = audio.paused ? 0 : requestAnimationFrame(tick);
  }
  audio.addEventListener("play", () => {
    if (!frame) frame = requestAnimationFrame(tick);
  });
  for (const event of ["timeupdate", "seeking", "seeked", "pause"]) {
    audio.addEventListener(event, light);
  }
  audio.addEventListener("error", () => {
    box("trouble").hidden = false;
  });
  if (audio.error) box("trouble").hidden = false;

  function play() {
    const started = audio.play();
    if (started) started.catch(() => {}); // what went wrong comes as an "error" event
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-start]");
    const isSelecting = !getSelection().isCollapsed;
    if (!target || (isSelecting && !event.target.closest("button"))) return;
    audio.currentTime = +target.dataset.start;
    play();
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.closest("button, input, summary, audio")) return;
    if (event.key === " ") {
      if (audio.paused) play();
      else audio.pause();
    } else if (event.key === "ArrowLeft") audio.currentTime -= 5;
    else if (event.key === "ArrowRight") audio.currentTime += 5;
    else return;
    event.preventDefault();
  });
})();
