"""Kernels of Whisper: matrix products for many and for few rows, attention, token choice; and those
of the speech detector.

Compiled into every artifact; nothing here is needed to run one.
"""

from .linear import *
from .matmul import *
from .attention import *
from .encoder_attention import *
from .cross_kv import *
from .copy_rows import *
from .choose import *
from .vad import *
from .lstm import *
