"""transformers on the device that `gpu.py` measures, for windows of 30 s."""

import gc
from functools import partial
from statistics import median
from typing import Any

from gpu_sections import Run, timed
from random_checkpoint import random_model

from mwc.runtime.artifact import open_artifact


def transformers(run: Run) -> dict[str, Any]:
    """transformers with random weights of the same sizes: windows of 30 s, as many tokens each.

    bfloat16 on a GPU, torch's scaled dot-product attention, greedy, from log-mel to tokens; medians
    of three, after one that does not count.
    """
    import torch

    cuda = run.device.startswith("gpu")
    place, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    finish = torch.cuda.synchronize if cuda else lambda: None
    found = {}
    for path in run.artifacts:
        dims = open_artifact(path).manifest.spec.model
        theirs = random_model(dims, place, dtype)
        for rows in run.rows:
            batch = torch.randn(rows, dims.n_mels, 2 * dims.n_audio_ctx, device=place, dtype=dtype)

            def generate(n: int, batch: Any = batch, theirs: Any = theirs) -> None:
                with torch.inference_mode():
                    start = torch.full((len(batch), 1), 50258, device=place)
                    theirs.generate(
                        batch, decoder_input_ids=start, do_sample=False, num_beams=1,
                        min_new_tokens=n, max_new_tokens=n,
                    )  # fmt: skip

            generate(run.tokens)
            runs = [timed(partial(generate, run.tokens), finish) for _ in range(3)]
            seconds = median(runs)
            found[f"{path.name}, {rows} at a time"] = {
                "ms": round(1e3 * seconds, 1),
                "real-time factor": round(30 * rows / seconds, 1),
                "fastest to slowest": [round(1e3 * each, 1) for each in (min(runs), max(runs))],
            }
        del theirs, generate, batch
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
    return found
