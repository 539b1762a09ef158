"""The largest entries, and Adam on them, against numpy."""

import numpy as np
import pytest

import sparsegrad
from sparsegrad import SparseAdam, SparseGradient, top_k


def test_top_k(random, context):
    core = random.standard_normal((6, 5)).astype(np.float32)
    core[0, 3] = -core[2, 2]  # a tie goes to the lower position
    for k in (0, 1, 7, 30, 1000):
        positions, values = top_k(core, k, context=context)
        order = sorted(range(30), key=lambda i: (-abs(core.ravel()[i]), i))[:k]
        np.testing.assert_array_equal(positions, sorted(order))
        np.testing.assert_array_equal(values, core.ravel()[sorted(order)])
        assert positions.dtype == np.int32 and values.dtype == np.float32


def test_top_k_of_strided_and_16_bit_cores(random):
    core = random.standard_normal((6, 8)).astype(np.float16)
    wide = core.astype(np.float32)
    assert top_k(core[:, :5], 4).positions.tolist() == top_k(wide[:, :5].copy(), 4).positions.tolist()
    assert top_k(wide[::2], 4).values.tolist() == top_k(wide[::2].copy(), 4).values.tolist()


def test_top_k_refuses():
    core = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="k is -1"):
        top_k(core, -1)
    core[1, 1] = np.nan
    with pytest.raises(sparsegrad.NonFiniteError, match="row 1, column 1"):
        top_k(core, 2)
    with pytest.raises(TypeError):
        top_k(core, 2.0)


@pytest.mark.parametrize("semantics", ["torch", "per_entry_step", "dense_core"])
def test_adam_by_hand(semantics, random, context):
    shape, b1, b2, eps, rate = (3, 4), 0.9, 0.99, 1e-6, 0.1
    adam = SparseAdam(shape, beta1=b1, beta2=b2, eps=eps, semantics=semantics, context=context)
    m, v, count = np.zeros(12), np.zeros(12), np.zeros(12)
    for step in range(1, 6):
        positions = np.sort(random.choice(12, 5, replace=False))
        values = random.standard_normal(5).astype(np.float32)
        update = adam.step((positions, values), learning_rate=rate, grad_scale=0.5)
        g = np.zeros(12)
        g[positions] = 0.5 * values
        moves = np.ones(12, bool) if semantics == "dense_core" else np.isin(np.arange(12), positions)
        m[moves] = b1 * m[moves] + (1 - b1) * g[moves]
        v[moves] = b2 * v[moves] + (1 - b2) * g[moves] ** 2
        count[moves] += 1
        t = np.maximum(count, 1) if semantics == "per_entry_step" else step
        if semantics == "torch":  # eps beside the uncorrected root
            d = -rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        else:
            d = -rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        np.testing.assert_allclose(update.ravel(), np.where(moves, d, 0), atol=1e-6)
    assert adam.steps == 5 and adam.entries == 12 and adam.nbytes > 0


def test_adam_with_few_moments():
    adam = SparseAdam((10, 10), capacity=3, overflow="error")
    gradient = SparseGradient(np.array([1, 4], np.int32), np.array([2, -3], np.float32))
    update = adam.step(gradient, learning_rate=0.1)
    np.testing.assert_allclose(update.ravel()[[1, 4]], [-0.1, 0.1], rtol=1e-5)
    assert np.count_nonzero(update) == 2 and adam.entries == 2
    with pytest.raises(sparsegrad.CapacityError):
        adam.step((np.array([5, 6]), np.ones(2, np.float32)), learning_rate=0.1)
    assert adam.steps == 1
    adam = SparseAdam((10, 10), capacity=3)
    adam.step(gradient, learning_rate=0.1)
    adam.step((np.array([5, 6, 7]), np.ones(3, np.float32)), learning_rate=0.1)
    assert adam.entries == 3


def test_repr_of_an_adam():
    adam = SparseAdam((2, 3))
    assert repr(adam) == "<SparseAdam of a core [2, 3], 0 steps>"
    adam.step((np.array([1]), np.ones(1, np.float32)), learning_rate=0.1)
    assert repr(adam) == "<SparseAdam of a core [2, 3], 1 step>"


@pytest.mark.parametrize(
    "error, text, positions, values",
    [
        (ValueError, "strictly rising", [4, 2], [1, 1]),
        (ValueError, "strictly rising", [2, 2], [1, 1]),
        (ValueError, "position 6 lies outside", [6], [1]),
        (ValueError, "position -1 lies outside", [-1], [1]),
        (ValueError, "position 4294967297 lies outside", [2**32 + 1], [1]),
        (ValueError, "expected 1 \\[positions\\] of 2 elements", [0, 1], [1]),
        (TypeError, "positions are of float64", [0.5], [1]),
        (ValueError, "positions have 2 dimensions", [[0]], [1]),
        (ArithmeticError, "value 0 is", [0], [np.nan]),
    ],
)
def test_adam_refuses(error, text, positions, values):
    adam = SparseAdam((2, 3))
    with pytest.raises(error, match=text):
        adam.step((np.array(positions), np.array(values, np.float32)), learning_rate=0.1)
    assert adam.steps == 0


def test_adam_refuses_options():
    for options, text in (
        ({"beta1": 1}, "beta1 is 1"),
        ({"semantics": "Torch"}, "semantics is 'Torch', expected 'torch', 'per_entry_step' or 'dense_core'"),
        ({"capacity": -1}, "capacity"),
        ({"eps": float("nan")}, "eps"),
    ):
        with pytest.raises(ValueError, match=text):
            SparseAdam((2, 3), **options)
    for shape, text in (((0, 3), "0x3"), ((3, 0), "3x0"), ((-2, 3), "-2x3")):
        with pytest.raises(ValueError, match=f"the core is {text}, expected positive extents"):
            SparseAdam(shape)
    with pytest.raises(ValueError):
        SparseAdam((2**31, 2**31))
    adam = SparseAdam((2, 3))
    none = (np.array([], int), np.array([], np.float32))
    for rate in (-1, float("nan")):
        with pytest.raises(ValueError, match="learning_rate"):
            adam.step(none, learning_rate=rate)
    assert not adam.step(none, learning_rate=0.1).any() and adam.steps == 1
