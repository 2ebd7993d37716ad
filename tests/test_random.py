"""The counter-based generator: published vectors, statistics, and the core's bits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlcore
import reference
from dlcore import _core, functional

SEEDS = st.integers(0, 2**64 - 1)
STEPS = st.one_of(st.integers(0, 10), st.integers(0, 2**48 - 1))
LAYERS = st.integers(0, 2**16 - 1)
COUNTS = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 1023, 1025]))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # kat_vectors of the Random123 library, Philox4x32 with 10 rounds.
        (
            [0x00000000, 0x00000000, 0x00000000, 0x00000000],
            [0x00000000, 0x00000000],
            [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        ),
        (
            [0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF],
            [0xFFFFFFFF, 0xFFFFFFFF],
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert reference.philox4x32(counter, key).tolist() == expected
    many = reference.philox4x32(np.tile(counter, (3, 1)), key)
    assert many.tolist() == [expected] * 3


def test_core_known_answer():
    """Counter 0 and key 0 of the published vectors is block 0 of shuffling."""
    words = _core.random_words(0, 0, 0, 0, 4)
    assert words.tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_streams_are_windows_of_one_sequence():
    whole = reference.random_words(9, 1, 2, 3, 50)
    for first, count in ((0, 0), (0, 1), (3, 2), (4, 9), (17, 33)):
        part = reference.random_words(9, 1, 2, 3, count, first=first)
        np.testing.assert_array_equal(part, whole[first : first + count])


def test_every_part_of_the_key_and_counter_counts():
    """Seeds, purposes, layers and steps differ in every bit that is given to them."""
    base = (0, 0, 0, 0)
    others = [(1 << b, 0, 0, 0) for b in range(64)]
    others += [(0, p, 0, 0) for p in (1, 2)]
    others += [(0, 0, 1 << b, 0) for b in range(16)]
    others += [(0, 0, 0, 1 << b) for b in range(48)]
    streams = {reference.random_words(*key, 8).tobytes() for key in [base, *others]}
    assert len(streams) == 1 + len(others)


def test_words_are_uniform_and_independent():
    """Bits, bytes and neighbours of 2^16 words, within five standard deviations."""
    words = reference.random_words(1, 1, 1, 1, 1 << 16)
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32)
    limit = 5 * 0.5 / math.sqrt(len(words))
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < limit)
    counts = np.bincount(words >> 24, minlength=256)
    chi_square = np.sum((counts - 256.0) ** 2 / 256)
    assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)
    centred = words / 2.0**32 - 0.5
    for lag in (1, 2, 3, 4):
        correlation = np.mean(centred[lag:] * centred[:-lag]) * 12
        assert abs(correlation) < 5 / math.sqrt(len(words))


def test_uniforms_and_normals_have_their_moments():
    count = 100_000
    u = reference.random_uniform(2, 2, 1, count)
    assert u.min() >= 0
    assert u.max() < 1
    z = reference.random_normal(2, 2, 1, count)
    for sample, moments in ((u, (1 / 2, 1 / 3, 1 / 4, 1 / 5)), (z, (0, 1, 0, 3))):
        for power, moment in enumerate(moments, start=1):
            values = sample**power
            assert abs(values.mean() - moment) < 5 * values.std() / math.sqrt(count)
    # The share beyond 3: catches a radius or an angle that is cut short.
    beyond, expected = np.mean(np.abs(z) > 3), math.erfc(3 / math.sqrt(2))
    assert abs(beyond - expected) < 5 * math.sqrt(expected / count)
    assert abs(np.mean(z[0::2] * z[1::2])) < 5 / math.sqrt(count // 2)


def test_every_order_is_equally_likely():
    counts = {}
    for step in range(2400):
        order = tuple(reference.random_permutation(3, step, 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    chi_square = sum((c - 100) ** 2 / 100 for c in counts.values())
    assert abs(chi_square - 23) < 5 * math.sqrt(2 * 23)


# The core -----------------------------------------------------------------------------------------


@given(SEEDS, st.integers(0, 2), LAYERS, STEPS, COUNTS)
def test_core_words_are_the_reference_bits(seed, purpose, layer, step, count):
    words = _core.random_words(seed, purpose, layer, step, count)
    assert words.dtype == np.uint32
    expected = reference.random_words(seed, purpose, layer, step, count)
    np.testing.assert_array_equal(words, expected)


@given(SEEDS, LAYERS, COUNTS)
def test_core_uniforms_are_the_reference_bits(seed, layer, count):
    uniform = _core.random_uniform(seed, 2, layer, count)
    np.testing.assert_array_equal(uniform, reference.random_uniform(seed, 2, layer, count))


@given(SEEDS, LAYERS, COUNTS)
def test_core_normals(seed, layer, count):
    """Logarithm, root, cosine and product may each round otherwise; the angle is off by eps."""
    normal = _core.random_normal(seed, 2, layer, count)
    expected = reference.random_normal(seed, 2, layer, count)
    eps, pairs = np.finfo(np.float64).eps, np.zeros(count + count % 2)
    pairs[:count] = expected
    radius = np.hypot(*pairs.reshape(-1, 2).T) if count else np.zeros(0)
    if count % 2:  # half of the last pair is not there
        radius[-1] = max(radius[-1], 9.0)
    bound = np.repeat(radius, 2)[:count] * (2 * math.pi + 2) * eps + 4 * eps * np.abs(expected)
    assert np.all(np.abs(normal - expected) <= bound)


@given(SEEDS, STEPS, COUNTS)
def test_core_permutations_are_the_reference_orders(seed, step, count):
    order = _core.random_permutation(seed, step, count)
    assert sorted(order.tolist()) == list(range(count))
    np.testing.assert_array_equal(order, reference.random_permutation(seed, step, count))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(SEEDS, STEPS, LAYERS, st.sampled_from([0.0, 1e-9, 0.25, 0.5, 0.9]), st.integers(0, 70))
def test_dropout_masks_are_the_reference_bits(dtype, seed, step, layer, p, columns):
    x = np.ones((7, columns), dtype)
    y = functional.dropout(x, p, seed, step, layer)
    mask = reference.dropout_mask(x.shape, p, seed, step, layer)
    np.testing.assert_array_equal(y, np.where(mask, np.asarray(1 / (1 - p), dtype), 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("initializer", sorted(reference.INITIALIZERS))
def test_initial_weights(initializer, dtype):
    """Drawn in float64 and rounded once; the layer's number is its node's."""
    layers = [
        dlcore.Dense(33, initializer=initializer),
        dlcore.ReLU(),
        dlcore.Dense(7, initializer=initializer),
    ]
    seed = 2**64 - 3
    network = dlcore.Network(layers, input_shape=(17,), seed=seed, dtype=dtype)
    for name, node in (("0", 1), ("2", 3)):
        weight = network.parameters[f"{name}.weight"]
        expected = reference.initial_weight(initializer, seed, node, *weight.shape)
        eps = np.finfo(np.float64).eps
        scale = np.abs(expected).max()
        bound = np.spacing(np.abs(expected).astype(dtype)) * 0.5 + 16 * eps * scale
        assert weight.dtype == dtype
        assert np.all(np.abs(weight - expected) <= bound)
        assert not network.parameters[f"{name}.bias"].any()


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (9, 9)])
def test_orthogonal_initial_weights(shape):
    """QR in LAPACK may round otherwise, so the bound is that of a backward stable QR."""
    rows, columns = shape
    network = dlcore.Network(
        [dlcore.Dense(rows, initializer="orthogonal")], (columns,), seed=4, dtype="float64"
    )
    weight = network.parameters["0.weight"]
    product = weight @ weight.T if rows <= columns else weight.T @ weight
    eps = np.finfo(np.float64).eps
    assert np.abs(product - np.eye(min(shape))).max() <= 10 * max(shape) * eps
    expected = reference.initial_weight("orthogonal", 4, 1, rows, columns)
    assert np.abs(weight - expected).max() <= 1e-12


def test_initial_weights_do_not_depend_on_other_layers():
    """A layer's weights follow from the seed and its place alone."""
    one = dlcore.Network([dlcore.Dense(8), dlcore.Dense(4)], (5,), seed=1)
    two = dlcore.Network([dlcore.Dense(8, initializer="zeros"), dlcore.Dense(4)], (5,), seed=1)
    assert one.parameters["1.weight"].tobytes() == two.parameters["1.weight"].tobytes()
    assert not two.parameters["0.weight"].any()
    assert one.parameters["0.weight"].any()
