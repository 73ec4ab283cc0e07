"""The constant tensors of an ONNX file, read without onnx: as much of protobuf as that takes.

An ONNX file is one protobuf message, a tree of numbered fields (onnx/onnx.proto; protobuf.dev,
"Encoding"). Only float32 tensors that Constant nodes carry are read, and only from one branch of
the If node at the top of the graph, which is how Silero keeps its two sampling rates in one file.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Value = int | bytes

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE = 1
_NODE_OP_TYPE, _NODE_ATTRIBUTE = 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 1, 5, 6
_TENSOR_DIMS, _TENSOR_DTYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_DTYPE_FLOAT = 1

_FIXED_SIZES = {1: 8, 5: 4}
"""Bytes of protobuf's fixed-size wire types."""


def branch_tensors(data: bytes, branch: str) -> dict[str, Float32]:
    """Read the float32 constants of one branch of the file's outermost If node.

    Args:
        data: the file.
        branch: "then_branch" or "else_branch".

    Returns:
        Tensor name to array, read-only, in the file's order; tensors without a name are left out.

    Raises:
        ValueError: it is not an ONNX file with such a branch, or it is damaged.
    """
    for graph in _messages(data, _MODEL_GRAPH):
        for node in _nodes(graph, "If"):
            for attribute in _messages(node, _NODE_ATTRIBUTE):
                if branch.encode() in _messages(attribute, _ATTRIBUTE_NAME):
                    (body,) = _messages(attribute, _ATTRIBUTE_GRAPH)
                    return dict(_constants(body))
    raise ValueError(f"it has no {branch}")


def _constants(graph: bytes) -> Iterator[tuple[str, Float32]]:
    for node in _nodes(graph, "Constant"):
        for attribute in _messages(node, _NODE_ATTRIBUTE):
            for tensor in _messages(attribute, _ATTRIBUTE_TENSOR):
                name = b"".join(_messages(tensor, _TENSOR_NAME)).decode()
                if name and (_TENSOR_DTYPE, _DTYPE_FLOAT) in _fields(tensor):
                    yield name, _array(name, tensor)


def _array(name: str, tensor: bytes) -> Float32:
    shape = [value for number, value in _fields(tensor) if number == _TENSOR_DIMS]
    raw = b"".join(_messages(tensor, _TENSOR_RAW_DATA))
    if not all(isinstance(size, int) for size in shape):
        raise ValueError(f"the sizes of {name} are packed")
    try:
        return np.frombuffer(raw, "<f4").reshape([int(size) for size in shape])
    except ValueError as error:
        raise ValueError(f"{name} has {len(raw)} bytes for the sizes {shape}") from error


def _nodes(graph: bytes, op_type: str) -> Iterator[bytes]:
    for node in _messages(graph, _GRAPH_NODE):
        if op_type.encode() in _messages(node, _NODE_OP_TYPE):
            yield node


def _messages(data: bytes, number: int) -> list[bytes]:
    """The messages, strings or byte strings in a field of a message."""
    return [value for n, value in _fields(data) if n == number and isinstance(value, bytes)]


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Every (field number, value) of a message in order; a fixed-size number stays bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire_type == 2:
            size, at = _varint(data, at)
        elif wire_type in _FIXED_SIZES:
            size = _FIXED_SIZES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
        if at + size > len(data):
            raise ValueError("it is cut short")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of 7 bits to the byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise ValueError("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than 64 bits before byte {at}")
