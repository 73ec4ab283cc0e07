"""Transcribe raw samples that are already in memory: python samples_from_memory.py ARTIFACT WAV.

Here they come from a 16-bit mono WAV file read with the standard library; a microphone or another
program would do as well. Samples at 16 kHz go in as they are, others with their rate.
"""

import sys
import wave

import numpy as np
import numpy.typing as npt

from mwc.runtime import MwcError, load


def read_wav(path: str) -> tuple[npt.NDArray[np.int16], int]:
    """Return a mono WAV file's samples and their rate."""
    with wave.open(path, "rb") as file:
        if file.getnchannels() != 1 or file.getsampwidth() != 2:
            sys.exit(f"{path} is not 16-bit mono")
        return np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()


def main(artifact: str, path: str) -> None:
    """Print the text of samples given as an array."""
    samples, rate = read_wav(path)
    result = load(artifact).transcribe((samples, rate))
    print(f"{result.duration:.1f} s: {result.text.strip()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (MwcError, OSError, EOFError, wave.Error) as error:
        sys.exit(f"{sys.argv[2]}: {error or type(error).__name__}")
