"""The compiler: Whisper checkpoints in, compiled and verified artifacts out.

from mwc.compiler import convert
convert("openai/whisper-small", "out/")
"""

from mwc.compiler.convert import ConvertResult, add_target, convert, verify_artifact
from mwc.compiler.convert_options import ConvertOptions
from mwc.compiler.parity import ParityReport

__all__ = [
    "ConvertOptions",
    "ConvertResult",
    "ParityReport",
    "add_target",
    "convert",
    "verify_artifact",
]
