"""A headless Chromium, driven over its DevTools pipe: https://chromedevtools.github.io/devtools-protocol

Needs nothing but the browser itself: `MWC_TEST_BROWSER`, or the first of BROWSERS that is there.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome",
    "chrome-headless-shell",
    "/usr/lib/chromium/chromium",  # what Debian's command starts
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # containers have no user namespaces, and the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1000,800",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """The browser's command, or None where there is none."""
    named = os.environ.get("MWC_TEST_BROWSER")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


class Tab:
    """One page.

    Attributes:
        requests: URLs asked for so far.
        complaints: what was logged as an error so far, broken content policies among it.
    """

    def __init__(self, send: BinaryIO, receive: BinaryIO) -> None:
        self._send, self._receive = send, receive
        self._session: str | None = None
        self._last = 0
        self._rest = b""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call one method and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, path: Path) -> None:
        """Load a file and wait until it is loaded."""
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.value(
            "new Promise(done => document.readyState === 'complete' ? done() "
            ": addEventListener('load', () => done()))"
        )

    def value(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise's when it is kept."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true, looking at each frame, for half a minute."""
        self.value(
            "new Promise((done, failed) => { const look = () => "
            f"({condition}) ? done() : requestAnimationFrame(look); look(); "
            f"setTimeout(() => failed(Error({json.dumps(condition)})), 30000); }})"
        )

    def click(self, element: str) -> None:
        """Click the middle of an element, a JavaScript expression, as the mouse does."""
        x, y = self.value(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); "
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._receive.fileno(), 1 << 16)
            assert read, "the browser has gone"
            self._rest += read
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        return message


@contextmanager
def open_tab(command: str, profile: Path) -> Iterator[Tab]:
    """Start a browser with a profile folder of its own, and end it."""
    to_read, to_send = os.pipe()
    to_receive, to_write = os.pipe()
    # The browser reads commands from descriptor 3 and answers on 4.
    shell = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
    words = [command, *OPTIONS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", shell, *words],
        pass_fds=(to_read, to_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    with os.fdopen(to_send, "wb") as send, os.fdopen(to_receive, "rb") as receive:
        try:
            yield Tab(send, receive)
        finally:
            process.terminate()
            process.wait(20)
