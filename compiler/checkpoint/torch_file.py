"""PyTorch files (.bin, .pt), read without running anything they contain."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mwc.compiler.checkpoint.files import unreadable
from mwc.compiler.checkpoint.lazy import LazyTensor
from mwc.compiler.checkpoint.types import Float32
from mwc.runtime.errors import CheckpointError, UnsupportedModel, first_line

DTYPES = ("float32", "float16", "bfloat16")


def load_torch(path: Path) -> Any:
    """Return what a file of `torch.save` holds; tensors stay mapped to the file.

    Raises:
        CheckpointError: torch is not installed, the file is damaged, or it holds anything but
            tensors and plain values (a pickle could run code).
    """
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"reading {path} needs torch; install it with: pip install 'mwc[torch]'."
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file is said below
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except OSError as error:
        raise unreadable(path, error) from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL:? ([\w.]+)", str(error))
        what = f"holds a pickled {named[1]}" if named else "is damaged or holds pickled objects"
        raise CheckpointError(
            f"{path} {what}, and loading that could run code, so mwc reads tensors only; "
            "give a safetensors checkpoint."
        ) from None
    except Exception as error:  # whatever its reader makes of damaged bytes
        raise CheckpointError(
            f"{path} is not a PyTorch checkpoint, or is damaged ({first_line(error)}); "
            "fetch it again."
        ) from None


def state_dict_tensors(state: Any, path: Path) -> dict[str, LazyTensor]:
    """Return the tensors of a state dict by the names it gives them.

    Raises:
        CheckpointError: it is not a mapping of names to tensors.
        UnsupportedModel: a tensor has a dtype mwc does not read.
    """
    import torch

    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not tensors by name.")
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path} holds {name!r} of type {type(tensor).__name__} where a tensor should be."
            )
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UnsupportedModel(
                f"{path} holds {name} as {dtype}; mwc reads {', '.join(DTYPES)}, "
                "so save it as one of these, or give the checkpoint from before its quantisation."
            )
        tensors[name] = LazyTensor(tuple(tensor.shape), _loader(tensor))
    return tensors


def _loader(tensor: Any) -> Any:
    """A function that widens one tensor into an array of its own."""

    def load() -> Float32:
        import torch

        values: Float32 = tensor.detach().to(torch.float32, copy=True).contiguous().numpy()
        return values

    return load
