"""The weight table: complete both ways for every family; transforms, casts, log-mel constants."""

import math
import re
import weakref

import numpy as np
import pytest
from families import FAMILIES, real_spec
from tiny_layouts import to_bfloat16
from tiny_model import MemoryTensors, TinyModel, tiny_model

from mwc.compiler.checkpoint_tensors import expected_tensors
from mwc.compiler.int8_parts import Int8Form, Int8Part, Quantizer, scale_name
from mwc.compiler.mel import mel_filters, windowed_dft
from mwc.compiler.quantize import (
    FITTING_STEPS,
    FOUR_LIMIT,
    GROUP_TERMS,
    LONG_GROUP,
    fits_packed,
    pack_groups,
    pack_halves,
    pack_int8,
    quantize_groups,
    quantize_int8,
    quantize_with_rests,
    sieve_bounds,
    sums_of_four,
)
from mwc.compiler.vad_weights import DETECTOR_RULES
from mwc.compiler.weight_rules import DRAFT, weight_rules
from mwc.compiler.weights import (
    PRECISIONS,
    cast_weight,
    exact_in_float16,
    fit_without_vnni,
    mapped_weights,
    weight_specs,
)
from mwc.runtime.errors import WeightMismatch
from mwc.runtime.manifest import WeightsEntry
from mwc.runtime.spec import AudioSpec, TensorSpec

AUDIO = AudioSpec()
COMPUTED = (
    *(f"log_mel.{name}" for name in ("dft", "factors", "filters", "bands")),
    *DETECTOR_RULES,
)
"""What no checkpoint holds."""


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return tiny_model()


@pytest.fixture(scope="module")
def stored(tiny: TinyModel) -> dict[str, np.ndarray]:
    weights = mapped_weights(tiny.tensors, tiny.spec, "f32")
    return {spec.name: make() for spec, make in weights}


def cast(values: list[float], dtype: str) -> np.ndarray:
    array = np.array(values, np.float32)
    return cast_weight(array, TensorSpec("decoder.x", dtype, array.shape))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_checkpoint_tensor_is_used_once_and_every_source_exists(family: str) -> None:
    spec = real_spec(family)
    sources = [s for rule in weight_rules(spec).values() for s in rule.sources]
    assert sorted(sources) == sorted(expected_tensors(spec.model))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_parameter_is_lost_or_made_up(family: str) -> None:
    model = real_spec(family).model
    rules = weight_rules(real_spec(family))
    stored = sum(math.prod(rule.shape) for name, rule in rules.items() if name not in COMPUTED)
    zero_biases = (model.n_audio_layer + 2 * model.n_text_layer) * model.n_audio_state
    read = sum(math.prod(shape) for shape in expected_tensors(model).values())
    assert stored == read + zero_biases


@pytest.mark.parametrize("precision", PRECISIONS)
def test_arrays_are_what_their_specs_say(tiny: TinyModel, precision: str) -> None:
    carriers = {
        "float32": np.float32,
        "float16": np.float16,
        "bfloat16": np.uint16,
        "int8": np.int8,
        "uint8": np.uint8,
    }
    specs = weight_specs(tiny.spec, precision)
    seen = []
    for spec, make in mapped_weights(tiny.tensors, tiny.spec, precision):
        array = make()
        assert spec == specs[spec.name]
        assert (array.shape, array.dtype) == (spec.shape, carriers[spec.dtype])
        assert array.flags.c_contiguous
        seen.append(spec.name)
    assert seen == list(specs)


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_only_matrices_of_the_model_take_the_precision(tiny: TinyModel, precision: str) -> None:
    for name, spec in weight_specs(tiny.spec, precision).items():
        is_matrix = len(spec.shape) == 2 and "positions" not in name and name not in COMPUTED
        assert spec.dtype == (PRECISIONS[precision] if is_matrix else "float32"), name


def rounded(tiny: TinyModel) -> dict[str, np.ndarray]:
    """The model's tensors, every value one of float16."""
    return {
        name: tiny.tensors.read(name).astype(np.float16).astype(np.float32)
        for name in tiny.tensors.shapes
    }


def test_float32_is_stored_as_float16_where_that_loses_nothing(tiny: TinyModel) -> None:
    tensors = rounded(tiny)
    smallest = np.float32(2.0**-24)  # of float16, but an eighth of it, as a query's, is not
    tensors["decoder.layers.1.encoder_attn.q_proj.weight"][3, 5] = smallest
    tensors["encoder.layers.0.fc1.weight"][7, 1] = np.float32(0.1)  # no value of float16
    tensors["decoder.layers.0.fc2.weight"][0, 0] = np.float32(1e5)  # beyond its range
    checkpoint = MemoryTensors(tensors)
    inexact = {
        "encoder.layers.0.fc1.weight",
        "encoder.layers.1.fc1.weight",  # layers share a graph, so they are alike
        *(f"decoder.layers.{i}.{name}.weight" for i in range(2) for name in ("fc2",)),
        *(f"decoder.layers.{i}.encoder_attn.q_proj.weight" for i in range(2)),
    }
    rules = weight_rules(tiny.spec)
    matrices = {name for name, rule in rules.items() if rule.is_matrix}
    halves = exact_in_float16(checkpoint, tiny.spec)
    written = dict(mapped_weights(checkpoint, tiny.spec, "f32"))
    # Queries of self-attention may be inexact too, where an eighth leaves float16's range.
    assert matrices - halves - inexact <= {n for n in matrices if "self_attn.qkv" in n}
    assert not halves & inexact
    for spec, make in written.items():
        array, rule = make(), rules[spec.name]
        exact = rule.make(*map(checkpoint.read, rule.sources))
        assert spec.dtype == ("float16" if spec.name in halves else "float32"), spec.name
        assert array.dtype == spec.dtype
        assert np.array_equal(array.astype(np.float32), exact), spec.name


def test_bytes_of_a_weight_are_an_average_over_matrices() -> None:
    tensors = (
        TensorSpec("decoder.embed_positions.weight", "float32", (448, 4)),
        TensorSpec("decoder.layers.0.fc1.weight", "float16", (8, 4)),
        TensorSpec("decoder.layers.0.fc1.bias", "float32", (8,)),
        TensorSpec("decoder.layers.0.self_attn.qkv.weight", "float32", (4, 4)),
        TensorSpec("encoder.conv1.weight", "int8", (1, 2, 16, 4)),
    )
    entry = WeightsEntry("f32", "weights/f32.safetensors", tensors)
    assert entry.item_bytes("decoder.layers") == (32 * 2 + 16 * 4) / 48
    assert entry.item_bytes("decoder") == entry.item_bytes("decoder.layers")
    assert entry.item_bytes("encoder") == 1


def test_no_other_precision_is_stored_in_another_dtype(tiny: TinyModel) -> None:
    checkpoint = MemoryTensors(rounded(tiny))
    for precision in ("bf16", "f16", "int8"):
        stored = {s.name: s for s, _ in mapped_weights(checkpoint, tiny.spec, precision)}
        assert stored == weight_specs(tiny.spec, precision)


def test_queries_carry_the_attention_scale(tiny: TinyModel, stored: dict[str, np.ndarray]) -> None:
    read = tiny.tensors.read
    for stack, i in (("encoder", 0), ("decoder", 1)):
        prefix = f"{stack}.layers.{i}.self_attn"
        weight, bias = stored[f"{prefix}.qkv.weight"], stored[f"{prefix}.qkv.bias"]
        q, k, v = (read(f"{prefix}.{part}_proj.weight") for part in "qkv")
        assert np.array_equal(weight, np.concatenate([q / 8, k, v]))
        q, v = (read(f"{prefix}.{part}_proj.bias") for part in "qv")
        assert np.array_equal(bias, np.concatenate([q / 8, np.zeros(128, np.float32), v]))


def test_cross_attention_is_one_query_and_one_fused_key_value(
    tiny: TinyModel, stored: dict[str, np.ndarray]
) -> None:
    prefix = "decoder.layers.1.encoder_attn"
    q, k, v = (tiny.tensors.read(f"{prefix}.{part}_proj.weight") for part in "qkv")
    assert np.array_equal(stored[f"{prefix}.q_proj.weight"], q / 8)
    assert np.array_equal(stored[f"{prefix}.kv.weight"], np.concatenate([k, v]))
    bias = tiny.tensors.read(f"{prefix}.v_proj.bias")
    assert np.array_equal(stored[f"{prefix}.kv.bias"], np.concatenate([np.zeros_like(bias), bias]))


def test_a_convolution_times_frames_side_by_side(
    tiny: TinyModel, stored: dict[str, np.ndarray]
) -> None:
    frames = np.random.default_rng(0).standard_normal((3, 80)).astype(np.float32)
    expected = np.einsum("oct,tc->o", tiny.tensors.read("encoder.conv1.weight"), frames)
    got = stored["encoder.conv1.weight"] @ frames.reshape(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_tensor_of_another_shape_is_not_stored(tiny: TinyModel) -> None:
    wrong = MemoryTensors({n: tiny.tensors.read(n)[..., :1] for n in tiny.tensors.shapes})
    makers = {spec.name: make for spec, make in mapped_weights(wrong, tiny.spec, "bf16")}
    with pytest.raises(ValueError, match=r"decoder\.embed_tokens\.weight came out as"):
        makers["decoder.embed_tokens.weight"]()
    with pytest.raises(ValueError, match=r"encoder\.conv1\.weight came out as"):
        list(mapped_weights(wrong, tiny.spec, "f32"))


def test_int8_rows_reach_to_127_and_round_to_the_nearest() -> None:
    rows = np.array([[0.5, -2.54, 0.03], [0.0, 0.0, 0.0], [-1e-3, 2e-3, 4e-3]], np.float32)
    values, scale = quantize_int8(rows)
    assert values.tolist() == [[25, -127, 2], [0, 0, 0], [-32, 64, 127]]
    np.testing.assert_allclose(scale, [0.02, 1e-30, 4e-3 / 127], rtol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(3, 64), (17, 200), (5, 16)])
def test_groups_of_terms_reach_to_127_each(n: int, k: int) -> None:
    rng = np.random.default_rng(7)
    value = rng.normal(size=(n, k)).astype(np.float32)
    value *= np.exp(np.repeat(rng.normal(size=(n, -(-k // GROUP_TERMS))), GROUP_TERMS, 1)[:, :k])
    value[1] = 0
    value[2, :GROUP_TERMS] *= 1e-6  # less than a thousandth of the row's largest
    values, scale, group_scale = quantize_groups(value)
    assert group_scale.shape == (n, -(-k // GROUP_TERMS))
    assert group_scale.max() <= 255
    assert group_scale.min() >= 1
    factors = np.repeat(group_scale, GROUP_TERMS, axis=1)[:, :k]
    step = scale[:, None] * factors
    assert (np.abs(values * step - value) <= 0.501 * step).all()
    assert not values[1].any()
    starts = np.arange(0, k, GROUP_TERMS)
    largest = np.maximum.reduceat(np.abs(values.astype(int)), starts, axis=1)
    coarse = group_scale > 20  # where rounding up to a whole multiple costs less than a twentieth
    assert (largest[coarse] >= 120).all()
    assert (np.sort(largest, axis=1)[:, -1] == 127).sum() >= n - 1
    packed = pack_groups(group_scale)
    assert packed.shape == (-(-n // 16), group_scale.shape[1], 16)
    for j in range(n):
        assert np.array_equal(packed[j // 16, :, j % 16], group_scale[j])


def test_groups_of_terms_are_finer_than_whole_rows() -> None:
    value = np.random.default_rng(8).standard_t(4, (64, 512)).astype(np.float32)
    values, scale = quantize_int8(value)
    rows_error = np.square(values * scale[:, None] - value).mean()
    values, scale, group_scale = quantize_groups(value)
    factors = np.repeat(group_scale, GROUP_TERMS, axis=1)
    groups_error = np.square(values * (scale[:, None] * factors) - value).mean()
    assert groups_error < 0.5 * rows_error


@pytest.mark.parametrize("seed", range(5))
def test_int8_groups_that_fit_are_no_coarser_than_they_have_to_be(seed: int) -> None:
    value = np.random.default_rng(seed).standard_t(2, (64, 96)).astype(np.float32)
    value[0], value[1, 1:] = 0, 0
    values, scale, group_scale = quantize_groups(value, 48, fits=True)
    step = scale[:, None] * np.repeat(group_scale, 48, axis=1)
    assert (np.abs(values * step - value) <= 0.501 * step).all()
    sums = sums_of_four(values)
    assert sums.max() <= FOUR_LIMIT
    first, second = sums[:, :24].max(1), sums[:, 24:].max(1)
    coarsest = np.where(group_scale[:, 0] == 255, first, second)  # the group that sets the scale
    reached = (coarsest >= FOUR_LIMIT - 4) | (np.abs(values).max(1) == 127)
    assert reached[1:].all()
    assert not values[0].any()
    assert values[1].tolist() == [np.sign(value[1, 0]) * 127, *[0] * 95]


def test_packed_values_tell_whether_they_fit() -> None:
    values, *_ = quantize_groups(np.random.default_rng(1).normal(size=(33, 48)), fits=True)
    assert fits_packed(pack_int8(values))
    values[32, 40:46] = [FOUR_LIMIT // 2, FOUR_LIMIT // 2, 9, 9, 1, 0]
    assert not fits_packed(pack_int8(values))
    values[32, 44] = 0
    assert fits_packed(pack_int8(values))


def test_int8_matrices_for_vnni_alone_are_finer(tiny: TinyModel) -> None:
    def stored(*, vnni: bool) -> dict[str, np.ndarray]:
        makers = mapped_weights(tiny.tensors, tiny.spec, "int8", vnni=vnni)
        return {spec.name: make() for spec, make in makers}

    fine, fitting = stored(vnni=True), stored(vnni=False)
    assert fit_without_vnni(fitting, tiny.spec)
    assert not fit_without_vnni(fine, tiny.spec)
    scale = "encoder.layers.0.fc1.scale"
    assert fine[scale].mean() < 0.8 * fitting[scale].mean()
    same = [name for name in fine if np.array_equal(fine[name], fitting[name])]
    assert {name for name in fine if name.startswith("decoder.")} - set(same) == {
        name for name in fine if name.endswith(("encoder_attn.kv.weight", "encoder_attn.kv.scale"))
    }


class CountedTensors(MemoryTensors):
    """Tensors that note each reading."""

    def __init__(self, tensors: MemoryTensors) -> None:
        super().__init__({name: tensors.read(name) for name in tensors.shapes})
        self.readings: list[str] = []

    def read(self, name: str) -> np.ndarray:
        self.readings.append(name)
        return super().read(name)


def test_an_int8_matrix_is_read_once_for_all_its_parts(tiny: TinyModel) -> None:
    counted = CountedTensors(tiny.tensors)
    for _, make in mapped_weights(counted, tiny.spec, "int8"):
        make()
    sources = [s for rule in weight_rules(tiny.spec).values() for s in rule.sources]
    assert sorted(counted.readings) == sorted(sources)


def of_layers(int8: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of an int8 file by the names of one layer each, whether stacked or not."""
    by_layer = {}
    for name, array in int8.items():
        if not re.match(r"decoder\.layers\.\D", name):
            by_layer[name] = array
            continue
        for i, own in enumerate(array):
            by_layer[name.replace("layers.", f"layers.{i}.")] = own
    return by_layer


def test_what_a_step_reads_of_the_decoders_layers_is_stacked_in_int8(tiny: TinyModel) -> None:
    specs = weight_specs(tiny.spec, "int8")
    alone = {name for name in specs if re.match(r"decoder\.layers\.\d", name)}
    assert alone == {
        f"decoder.layers.{i}.encoder_attn.kv.{part}"
        for i in range(2)
        for part in ("weight", "scale", "group_scale", "bias")
    }
    assert specs["decoder.layers.fc1.scale"].shape == (2, tiny.spec.model.n_text_mlp)


@pytest.mark.parametrize(("precision", "drafts"), [("int8", False), ("f32", True)])
def test_parts_are_the_same_in_whatever_order_they_are_made(
    tiny: TinyModel, precision: str, drafts: bool
) -> None:
    written = list(mapped_weights(tiny.tensors, tiny.spec, precision, drafts=drafts))
    first = [make() for _, make in written]
    again = [make() for _, make in reversed(written)]
    order = np.random.default_rng(0).permutation(len(written))
    mixed = {i: written[i][1]() for i in order}
    for i, expected in enumerate(first):
        assert np.array_equal(expected, again[len(again) - 1 - i]), written[i][0].name
        assert np.array_equal(expected, mixed[i]), written[i][0].name


def test_no_two_quantized_matrices_are_held_at_a_time() -> None:
    quantizer, seen = Quantizer(), []
    value = np.ones((16, 8), np.float32)

    def of(matrix) -> np.ndarray:
        seen.append(weakref.ref(matrix))
        return matrix.scale

    def read() -> np.ndarray:
        assert not any(matrix() for matrix in seen)
        return value

    part = Int8Part(TensorSpec("x.scale", "float32", (16,)), of)
    for name in ("x.weight", "x.weight", "y.weight", "x.weight"):
        quantizer.make(part, name, Int8Form(), [read])
    assert [matrix() is None for matrix in seen] == [True, True, True, False]


def test_float32_models_draft_with_the_int8_weights_of_the_decoder(tiny: TinyModel) -> None:
    drafting = dict(mapped_weights(tiny.tensors, tiny.spec, "f32", drafts=True))
    plain = dict(mapped_weights(tiny.tensors, tiny.spec, "f32"))
    int8 = {spec.name: make for spec, make in mapped_weights(tiny.tensors, tiny.spec, "int8")}
    copies = {
        spec.name.removeprefix(DRAFT): make for spec, make in drafting.items() if spec not in plain
    }
    assert set(plain) < set(drafting)
    assert {spec.name: spec for spec in drafting} == weight_specs(tiny.spec, "f32", drafts=True) | {
        spec.name: spec for spec in plain
    }
    assert set(int8) - set(copies) >= {"decoder.embed_tokens.rest"}
    bounds = "decoder.embed_tokens.sieve_bounds"
    for name, make in copies.items():
        assert name == bounds or np.array_equal(make(), int8[name]())
    np.testing.assert_allclose(copies[bounds](), int8[bounds](), rtol=0.1)
    matrices = {name for name, rule in weight_rules(tiny.spec).items() if rule.is_matrix}
    assert {name for name in matrices if re.sub(r"\.\d+\.", ".", name) not in copies} == {
        name for name in matrices if name.startswith("encoder.") or ".encoder_attn.kv." in name
    }


def test_four_terms_share_a_sum_as_the_kernels_add_them() -> None:
    values = np.zeros((1, 16), np.int8)
    values[0, :8] = [1, 2, 10, 20, 4, 8, -40, 80]
    sums = sums_of_four(values)
    assert sorted(sums[0].tolist()) == [0, 0, 0, 0, 0, 15, 40, 110]


def test_packing_keeps_four_terms_of_sixteen_columns_together() -> None:
    values = np.random.default_rng(3).integers(-127, 128, (37, 24), dtype=np.int8)
    packed = pack_int8(values)
    assert packed.shape == (3, 6, 16, 4)
    for j, c in [(0, 0), (15, 3), (16, 4), (36, 23), (20, 13)]:
        assert packed[j // 16, c // 4, j % 16, c % 4] == values[j, c]
    assert not packed[2, :, 5:].any()  # rows 37 to 47 do not exist


def unpack_halves(halves: np.ndarray, n: int) -> np.ndarray:
    """The inverse of `pack_halves`, written from what kernels/half_bytes.mojo says."""
    _, blocks, octets, columns, terms = halves.shape
    values = np.zeros((blocks * columns, octets * 8), int)
    for upper in range(2):  # of each byte
        high, low = (halves.astype(int) >> (4 * upper)) & 15
        for term in range(terms):
            at = np.arange(octets) * 8 + upper * terms + term
            joined = 16 * (high[..., term] - 8) + low[..., term]
            values[:, at] = joined.transpose(0, 2, 1).reshape(-1, octets)
    return values[:n]


def unpack_int8(packed: np.ndarray, n: int) -> np.ndarray:
    """The inverse of `pack_int8`."""
    blocks, steps, columns, terms = packed.shape
    return packed.transpose(0, 2, 1, 3).reshape(blocks * columns, steps * terms)[:n]


def test_halves_hold_every_value() -> None:
    values = np.arange(-128, 128).astype(np.int8)[np.random.default_rng(4).permutation(256)]
    values = np.tile(values, 3).reshape(24, 32)
    assert np.array_equal(unpack_halves(pack_halves(values), 24), values)


def test_bytes_and_rests_are_within_half_a_step() -> None:
    rng = np.random.default_rng(6)
    matrix = (rng.standard_t(3, (60, 64)) * rng.uniform(1e-3, 10, (60, 1))).astype(np.float32)
    matrix[5] = 0
    matrix[8, :3] = 127, 10.499, -10.5  # halfway between two bytes: a rest of 128 is none
    matrix[8, 3:] /= 1000
    values, rests, scale = quantize_with_rests(matrix)
    whole, whole_scale = quantize_int8(matrix)
    assert np.array_equal(values, whole)
    assert np.array_equal(scale, whole_scale)
    assert np.abs(rests).max() == 127
    assert not rests[5].any()
    units = matrix.astype(np.float64) / scale[:, None]
    off = np.abs(values + rests / 256 - units)
    clipped = np.abs(units - values) > 127.5 / 256
    assert off[~clipped].max() <= 0.501 / 256
    assert 0 < off[clipped].max() <= 1.001 / 256
    assert clipped[8].sum() >= 1


def test_sieve_bounds_hold_rests_too() -> None:
    rng = np.random.default_rng(5)
    values, rests = (rng.integers(-127, 128, (40, 64)).astype(np.int8) for _ in range(2))
    values[3] = rests[3] = 0
    exact = np.delete(values + rests / 256, 3, axis=0)
    left = exact - 16 * np.floor(np.delete(values, 3, axis=0) / 16.0) - 7.5
    expected = [(left**2).mean(1).max(), (exact**2).mean(1).max(), np.abs(left.mean(1)).max()]
    np.testing.assert_allclose(sieve_bounds(values, rests), expected, rtol=1e-6)


def test_sieve_bounds_are_the_most_that_any_token_leaves_out() -> None:
    values = np.random.default_rng(5).integers(-127, 128, (40, 64)).astype(np.int8)
    values[3] = 0  # says nothing: its scale makes its logit 0
    values[7, 1:] = 0  # lower halves of nothing but 0
    values[9] = np.resize([127, -127], 64)
    left = values.astype(float) - 16 * np.floor(values / 16.0) - 7.5
    told = np.delete(left, 3, axis=0)
    expected = [(told**2).mean(1).max(), 127.0**2, np.abs(told.mean(1)).max()]
    np.testing.assert_allclose(sieve_bounds(values), expected, rtol=1e-6)
    assert expected[0] > 55
    assert expected[2] > 7.3
    assert sieve_bounds(np.zeros((2, 8), np.int8)).tolist() == [0, 0, 0]


def test_an_int8_file_holds_the_model_within_half_a_unit(
    tiny: TinyModel, stored: dict[str, np.ndarray]
) -> None:
    made = {spec.name: make() for spec, make in mapped_weights(tiny.tensors, tiny.spec, "int8")}
    int8 = of_layers(made)
    matrices = [
        name
        for name, array in int8.items()
        if array.dtype in (np.int8, np.uint8) and name.endswith("weight")
    ]
    assert set(stored) < set(int8)
    assert len(matrices) == 3 + 2 * 4 + 2 * 7  # convolutions, embedding; of two layers each
    for name in matrices:
        n, k = stored[name].shape
        within = 0.501
        if int8[name].dtype == np.uint8:
            rests = unpack_int8(int8[scale_name(name, "rest")], n)
            values = unpack_halves(int8[name], n) + rests / 256
            within = 1.01 / 256
        else:
            values = unpack_int8(int8[name], n)
        columns = int8.get(scale_name(name, "column_scale"), np.ones(k, np.float32))
        unit = int8[scale_name(name)][:, None] * columns
        groups = int8.get(scale_name(name, "group_scale"))
        if groups is not None:
            rows = groups.transpose(0, 2, 1).reshape(-1, groups.shape[1])[:n]
            terms = weight_rules(tiny.spec)[name].int8.group_terms or k
            unit = unit * np.repeat(rows.astype(np.float32), terms, axis=1)[:, :k]
        assert (np.abs(values * unit - stored[name]) <= within * unit).all(), name
        many_rows = name.startswith("encoder.") or name.endswith("encoder_attn.kv.weight")
        assert not many_rows or sums_of_four(values).max() <= FOUR_LIMIT, name
    assert [n for n in int8 if n.endswith("column_scale")] == ["decoder.embed_tokens.column_scale"]
    in_groups = {n.removesuffix(".group_scale") for n in int8 if n.endswith("group_scale")}
    assert in_groups == {n.removesuffix(".weight") for n in matrices} - {"decoder.embed_tokens"}


@pytest.mark.parametrize("vnni", [False, True])
def test_values_of_the_first_encoder_layer_have_sixteen_bits(
    tiny: TinyModel, stored: dict[str, np.ndarray], vnni: bool
) -> None:
    weights = mapped_weights(tiny.tensors, tiny.spec, "int8", vnni=vnni)
    int8 = {spec.name: make() for spec, make in weights}
    state = tiny.spec.model.n_audio_state
    attention = "encoder.layers.0.self_attn"
    with_rests = {name.removesuffix(".rest") for name in int8 if name.endswith(".rest")}
    first = {f"{attention}.qkv", f"{attention}.out_proj"}
    assert with_rests == {*first, "decoder.embed_tokens"}
    for name in first:
        exact = stored[f"{name}.weight"]
        n, k = exact.shape
        values = unpack_int8(int8[f"{name}.weight"], n).astype(np.float32)
        rests = unpack_int8(int8[f"{name}.rest"], state)
        assert sums_of_four(rests).max() <= FOUR_LIMIT  # whether or not weights have to
        values[-state:] += rests / np.float32(FITTING_STEPS)
        groups = int8[f"{name}.group_scale"].transpose(0, 2, 1).reshape(-1, -(-k // LONG_GROUP))
        unit = np.repeat(groups[:n], LONG_GROUP, axis=1)[:, :k] * int8[f"{name}.scale"][:, None]
        off = np.abs(values * unit - exact) / unit
        assert off[-state:].max() <= 0.51 / FITTING_STEPS
        assert n == state or off[:-state].max() > 0.4


def test_bfloat16_rounds_to_nearest_even() -> None:
    step = 2.0**-7  # between bfloat16 numbers from 1 to 2
    got = cast([1.0, 1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step, -1 - step / 2], "bfloat16")
    # Ties go to the even neighbour: 1 + step/2 down to 0x3F80, 1 + 3 step/2 up to 0x3F82.
    assert [hex(bits) for bits in got] == ["0x3f80", "0x3f80", "0x3f82", "0x3f81", "0xbf80"]


def test_bfloat16_keeps_zeros_infinities_and_the_largest_exponents() -> None:
    got = cast([0.0, -0.0, np.inf, -np.inf, 2.0**127, 1e-45], "bfloat16")
    assert [hex(bits) for bits in got] == ["0x0", "0x8000", "0x7f80", "0xff80", "0x7f00", "0x0"]


def test_bfloat16_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(1).integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    theirs = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    assert np.array_equal(cast_weight(values, TensorSpec("x", "bfloat16", values.shape)), theirs)
    assert np.array_equal(to_bfloat16(values), theirs)


def test_float16_refuses_what_it_cannot_hold() -> None:
    assert cast([65504.0, -65504.0, 0.1], "float16").tolist() == [
        65504.0,
        -65504.0,
        np.float16(0.1),
    ]
    with pytest.raises(WeightMismatch) as caught:
        cast([1.0, -70000.0], "float16")
    assert "decoder.x" in str(caught.value)
    assert "70000" in str(caught.value)
    assert "--precision bf16" in str(caught.value)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_mel_filters_are_those_of_transformers(n_mels: int) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    theirs = audio_utils.mel_filter_bank(201, n_mels, 0.0, 8000.0, 16000, "slaney", "slaney")
    ours = mel_filters(AUDIO, n_mels)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.T, rtol=1e-7, atol=1e-12)  # float32's rounding


def test_windowed_dft_is_the_spectrum_of_a_hann_window() -> None:
    frame = np.random.default_rng(2).standard_normal(AUDIO.n_fft)
    window = np.hanning(AUDIO.n_fft + 1)[:-1]
    expected = np.fft.rfft(frame * window)
    real, imaginary = np.split(windowed_dft(AUDIO).astype(np.float64) @ frame, 2)
    np.testing.assert_allclose(real + 1j * imaginary, expected, rtol=0, atol=1e-5)
