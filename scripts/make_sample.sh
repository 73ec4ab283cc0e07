#!/bin/sh
# Makes compiler/data/sample.flac, the clip that `mwc demo` and the parity report use.
#
# The words are this project's own and the voice is synthetic (flite's "slt"), so the clip belongs
# to nobody else. Two sentences with a pause between them; 16 kHz, mono, 16 bit.
# Needs flite and ffmpeg.
set -eu

out="${1:-$(dirname "$0")/../compiler/data/sample.flac}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT INT TERM

flite -voice slt -o "$work/1.wav" \
    -t "A compiler reads the whole model once, and writes down everything it will ever need."
flite -voice slt -o "$work/2.wav" \
    -t "After that, a small program turns speech into text in a few seconds."

ffmpeg -nostdin -loglevel error -y -i "$work/1.wav" -i "$work/2.wav" -filter_complex \
    "[0:a]apad=pad_dur=0.6[first];[first][1:a]concat=n=2:v=0:a=1,adelay=300,apad=pad_dur=0.4" \
    -ar 16000 -ac 1 -sample_fmt s16 -map_metadata -1 -fflags +bitexact -flags:a +bitexact "$out"
