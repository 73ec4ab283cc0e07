"""LayerNorm of many rows by itself, on CPUs: of what is not multiplied at once."""

import extensibility
from extensibility import InputTensor, OutputTensor
from max.gpu.host import DeviceContext

from .linear import F32, SERIAL_WORK, layer_norm_rows
from .parallel import share

comptime ROWS = 16
"""Rows that a thread takes at a time."""


@extensibility.register("mwc_norm")
struct LayerNorm:
    """LayerNorm of each row x[b, t, :]; gamma and beta [k]; 16 divides k."""

    @staticmethod
    def execute[target: StaticString](
        y: OutputTensor[dtype=F32, rank=3, ...],
        x: InputTensor[dtype=F32, rank=3, ...],
        gamma: InputTensor[dtype=F32, rank=1, ...],
        beta: InputTensor[dtype=F32, rank=1, ...],
        ctx: DeviceContext,
    ) raises:
        var m = x.dim_size(0) * x.dim_size(1)
        var k = x.dim_size(2)
        var y_ptr = y.unsafe_ptr()
        var x_ptr = x.unsafe_ptr()
        var gamma_ptr = gamma.unsafe_ptr()
        var beta_ptr = beta.unsafe_ptr()

        def rows_of(item: Int) {var m, var k, var y_ptr, var x_ptr, var gamma_ptr, var beta_ptr}:
            var first = item * ROWS
            layer_norm_rows(
                y_ptr.unsafe_offset(first * k), x_ptr.unsafe_offset(first * k), gamma_ptr, beta_ptr,
                min(ROWS, m - first), k,
            )

        share(rows_of, (m + ROWS - 1) // ROWS, serial=m * k < SERIAL_WORK)
