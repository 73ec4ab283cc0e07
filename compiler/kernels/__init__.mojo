"""Kernels of Whisper: matrix products for many and for few rows, attention, token choice; and those
of the speech detector.

Compiled into every artifact; nothing here is needed to run one.
"""

from .linear import *
from .linear_int8 import *
from .lm_head_int8 import *
from .linear_gpu import *
from .few_rows_gpu import *
from .norm_gpu import *
from .matmul_gpu import *
from .embed import *
from .norm import *
from .encoder_input import *
from .matmul import *
from .convolution import *
from .attention_ops import *
from .decode_attention_gpu import *
from .decoder_layers_int8 import *
from .steps_int8 import *
from .matmul_int8 import *
from .encoder_int8 import *
from .head_bytes import *
from .encoder_attention import *
from .encoder_attention_gpu import *
from .cross_kv import *
from .cross_attention_int8 import *
from .copy_rows import *
from .choose import *
from .choose_gpu import *
from .feed import *
from .log_mel import *
from .embed_gpu import *
from .vad_gpu import *
from .lstm_gpu import *
from .speech import *
