"""How a page refers to the audio it plays."""

import base64
import mimetypes
import os
from pathlib import Path
from stat import S_ISREG
from urllib.parse import quote

EMBED_BYTES = 8 << 20
"""Audio up to this size goes into the page, which then is one file to send or keep; larger audio
is linked, since base64 adds a third and browsers hold the whole page in memory."""

TYPES = {
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
    ".webm": "video/webm",
}
"""Media types of what browsers play, by file suffix, whatever the system's own table says."""


def audio_url(
    audio: str | Path, folder: str | Path, *, embed_bytes: int = EMBED_BYTES
) -> str | None:
    """Make the URL of an audio file for a page in `folder`; None for a pipe, which is read once.

    Args:
        audio: path of the file.
        folder: where the page will be.
        embed_bytes: largest size that becomes a data: URL; a larger file gets a URL relative to
            `folder`, so that page and audio can move together.

    Raises:
        OSError: the file cannot be read.
    """
    path = Path(audio)
    status = path.stat()
    if not S_ISREG(status.st_mode):
        return None
    if status.st_size <= embed_bytes:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return f"data:{media_type(path)};base64,{data}"
    relative = os.path.relpath(path.resolve(), Path(folder).resolve())
    return quote(os.fsencode(relative), safe="/")


def media_type(path: Path) -> str:
    """The media type of a file by its suffix; "application/octet-stream" where it says nothing."""
    guessed = mimetypes.guess_type(path.name)[0]
    return TYPES.get(path.suffix.lower()) or guessed or "application/octet-stream"
