"""The graphs' choice of the next token alone, for models of any vocabulary; numpy in and out."""

from collections.abc import Mapping

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, Module, TensorType

from mwc.compiler.graphs import layers
from mwc.compiler.graphs.entry_points import load_kernels
from mwc.compiler.graphs.scope import KERNELS, Plan
from mwc.runtime.decoder import RULE_STATE_SIZE, Choice, Float32, Int32
from mwc.runtime.spec import WhisperSpec


class ChooseGraphs:
    """One graph per model, compiled together: `graphs.choose(name, …)`."""

    def __init__(self, specs: Mapping[str, WhisperSpec]) -> None:
        module = Module()
        library, path = load_kernels(KERNELS)
        for name, spec in specs.items():
            plan = Plan(spec, DeviceRef.CPU(), {}, "float32", "float32", kernels=path)
            n_vocab = spec.model.n_vocab
            types = [
                TensorType(dtype, shape, DeviceRef.CPU())
                for dtype, shape in (
                    (DType.float32, ["rows", n_vocab]),
                    (DType.float32, [2, n_vocab]),
                    (DType.int32, ["rows", RULE_STATE_SIZE]),
                    (DType.float32, ["rows"]),
                    (DType.float32, ["rows"]),
                    (DType.int32, ["candidates"]),
                )
            ]
            with Graph(name, input_types=types, kernel_library=library, module=module) as graph:
                graph.output(*layers.choose(plan, *(value.tensor for value in graph.inputs)))
        session = InferenceSession(devices=[CPU()])
        compiled = session.compile(module, custom_extensions=[path])
        self._graphs = session.init_all(compiled, weights_registry={})

    def choose(
        self, name: str, logits: Float32, mask: Float32, states: Int32, n_candidates: int
    ) -> Choice:
        """The likeliest tokens of each row, at temperature 0."""
        zeros = np.zeros(len(logits), np.float32)
        ranks = np.arange(n_candidates, dtype=np.int32)
        arrays = (logits, mask, states, zeros, zeros, ranks)
        buffers = [Buffer.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        tokens, logprobs = self._graphs[name].execute(*buffers)
        return Choice(tokens.to_numpy(), logprobs.to_numpy())
