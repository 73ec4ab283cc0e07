"""The engines of one run as a picture: how fast each is, and how many words it gets wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS, OTHERS = "#1f77b4", "#a0a8b0"


def write_plot(
    path: Path, title: str, seconds: float, medians: Mapping[str, Mapping[str, Any]]
) -> None:
    """Draw a bar per engine, the fastest on top; needs matplotlib (`pip install 'mwc[bench]'`).

    Args:
        path: the `.svg` to write.
        title: above it.
        seconds: of audio.
        medians: by engine, with "transcribe" in seconds and "error_rate" or None.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "mwc"  # the same picture for the same figures
    from matplotlib import pyplot

    order = sorted(medians, key=lambda name: medians[name]["transcribe"], reverse=True)
    speeds = [seconds / medians[name]["transcribe"] for name in order]
    colours = [OURS if name.startswith("mwc") else OTHERS for name in order]
    figure, axes = pyplot.subplots(figsize=(8, 0.7 + 0.42 * len(order)), layout="constrained")
    bars = axes.barh(order, speeds, color=colours)
    labels = [f"{speed:.0f} x{wrong(medians[n])}" for speed, n in zip(speeds, order, strict=True)]
    axes.bar_label(bars, labels, padding=4)
    axes.set_title(title, loc="left")
    axes.set_xlabel("times real time")
    axes.set_xlim(0, 1.35 * max(speeds))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def wrong(median: Mapping[str, Any]) -> str:
    """Its word errors, where they are known."""
    rate = median["error_rate"]
    return "" if rate is None else f", {100 * rate:.1f} % of words wrong"
