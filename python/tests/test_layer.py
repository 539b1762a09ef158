"""Layers that make the gradient from tokens, against numpy, and the losses of examples/14_mlp."""

import math
import pathlib

import numpy as np
import pytest

import sparsegrad
from conftest import StdRandom
from sparsegrad import Group, Layer, Side
from test_arrays import Bfloat16

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_forward_and_backward(layout, random, context):
    number = lambda *shape: random.standard_normal(shape).astype(np.float32)
    w, bias, x, dy = number(5, 7), number(5), number(6, 7), number(6, 5)
    stored = w if layout == "out_in" else w.T.copy()
    layer = Layer(stored, bias, layout=layout, tokens=6, context=context)
    y, saved = layer.forward(x)
    np.testing.assert_allclose(y, x @ w.T + bias, atol=1e-5)
    dx = layer.backward(dy, saved)
    np.testing.assert_allclose(dx, dy @ w, atol=1e-5)
    db = np.ones(5, np.float32)
    again = layer.backward(dy, saved, out=dx, add=True, db=db)
    assert again is dx
    np.testing.assert_allclose(dx, 2 * dy @ w, atol=1e-5)
    np.testing.assert_allclose(db, 1 + dy.sum(axis=0), atol=1e-5)
    assert layer.backward(dy, saved, input_gradient=False) is None
    group = Group(density=1, context=context)
    assert group.add_layer(layer, "mlp") == 0
    total = float(((3 * dy.T @ x) ** 2).sum())  # three passes
    assert group.squared_norm() == pytest.approx(total, rel=1e-4)
    before = stored.copy()
    group.step(learning_rate=0.1)
    assert (stored != before).all()


def test_given_memory(random):
    number = lambda *shape: random.standard_normal(shape).astype(np.float32)
    w, x = number(5, 7), number(6, 7)
    layer = Layer(w)
    wide = np.zeros((6, 9), np.float32)
    y, _ = layer.forward(x, wide[:, 2:7])
    assert y.base is wide
    np.testing.assert_allclose(wide[:, 2:7], x @ w.T, atol=1e-5)
    assert not wide[:, :2].any()
    with pytest.raises(ValueError, match="overlaps"):
        Layer(number(7, 7)).forward(x, x)


def test_few_columns_of_the_input_are_kept(random):
    number = lambda *shape: random.standard_normal(shape).astype(np.float32)
    w, x, dy = number(24, 16), number(32, 16), number(32, 24)
    layer = Layer(w)
    group = Group(warmup_steps=1, out_side=Side.identity(), in_side=Side.hosvd(4), entries=10)
    group.add_layer(layer)
    for step in range(3):
        _, saved = layer.forward(x)
        layer.backward(dy, saved, input_gradient=False)
        report = group.step(learning_rate=0.1)
        assert report.warming_up == (step == 0)
    assert group.describe_weight(0).core_shape == (24, 4) and report.kept == 10
    _, saved = layer.forward(x)
    group.set_basis(0, None)
    with pytest.raises(sparsegrad.ShapeError, match="saved input is 32x4"):  # in a basis that is gone
        layer.backward(dy, saved)


def test_bfloat16(random):
    master = random.standard_normal((5, 7)).astype(np.float32)
    w, bias = Bfloat16(master), Bfloat16(np.full((1, 5), 0.25, np.float32))
    layer = Layer(w, master=master)
    x, y = Bfloat16(random.standard_normal((6, 7)).astype(np.float32)), Bfloat16(np.zeros((6, 5), np.float32))
    with pytest.raises(ValueError, match="pass out"):
        layer.forward(x)
    out, saved = layer.forward(x, y)
    assert out is y
    np.testing.assert_allclose(y.numbers(), x.numbers() @ w.numbers().T, atol=0.05)
    with pytest.raises(ValueError, match="pass out"):
        layer.backward(y, saved)
    layer.backward(y, saved, input_gradient=False)
    with pytest.raises(ValueError, match="another context or is of another type"):
        Group().add_layer(layer)
    group = Group(dtype="bfloat16", density=1)
    group.add_layer(layer)
    before = master.copy()
    group.step(learning_rate=0.1)
    assert not np.array_equal(before, master)
    with pytest.raises(ValueError, match="the bias has 2 dimensions"):
        Layer(w, bias, master=master)


def test_what_is_refused(random):
    number = lambda *shape: random.standard_normal(shape).astype(np.float32)
    w, x, dy = number(5, 7), number(6, 7), number(6, 5)
    layer, other = Layer(w), Layer(number(5, 7))
    _, saved = layer.forward(x)
    for error, text, call in (
        (ValueError, "another layer's", lambda: other.backward(dy, saved)),
        (ValueError, "X is 6x5", lambda: layer.forward(number(6, 5))),
        (ValueError, "5x5", lambda: layer.backward(number(5, 5), saved)),
        (ValueError, "add is given without out", lambda: layer.backward(dy, saved, add=True)),
        (ValueError, "without input_gradient", lambda: layer.backward(dy, saved, input_gradient=False, out=x)),
        (ValueError, "db has 1 dimension \\[4\\], expected 1 \\[out\\] of 5", lambda: layer.backward(dy, saved, db=number(4))),
        (ValueError, "db has a stride of 2", lambda: layer.backward(dy, saved, db=number(10)[::2])),
        (ValueError, "db is of float16", lambda: layer.backward(dy, saved, db=np.zeros(5, np.float16))),
        (ValueError, "overlaps", lambda: layer.forward(x, x[:, :5])),
        (ValueError, "overlaps", lambda: layer.backward(dy, saved, db=dy[0])),
        (ValueError, "the bias has 1 dimension \\[7\\]", lambda: Layer(w, number(7))),
        (ValueError, "the bias is of float16", lambda: Layer(w, np.zeros(5, np.float16))),
        (ValueError, "layout is 'rows'", lambda: Layer(w, layout="rows")),
        (TypeError, "X is None", lambda: layer.forward(None)),
        (TypeError, "incompatible", lambda: layer.backward(dy, None)),
    ):
        with pytest.raises(error, match=text):
            call()


def test_rebind(random):
    number = lambda *shape: random.standard_normal(shape).astype(np.float32)
    w, x = number(5, 7), number(6, 7)
    layer = Layer(w)
    moved = number(5, 7)
    layer.rebind(moved, np.ones(5, np.float32))
    np.testing.assert_allclose(layer.forward(x)[0], x @ moved.T + 1, atol=1e-5)
    with pytest.raises(ValueError):
        layer.rebind(number(5, 6))
    np.testing.assert_allclose(layer.forward(x)[0], x @ moved.T + 1, atol=1e-5)


def losses_of_the_mlp(learning_rate, **options):
    """The training of examples/14_mlp.cpp: mean losses of steps 1 to 100, 101 to 200, 201 to 300."""
    width, hidden, tokens = 24, 64, 32
    random = StdRandom()
    erf = np.vectorize(math.erf, otypes=[np.float32])
    w1, w2 = random.centred(0.25, hidden, width), random.centred(0.25, width, hidden)
    left, right = random.centred(1, 3, hidden), random.centred(1, 3, width)
    t1 = w1 + np.float32(0.1) * left.T @ right
    t2 = w2 + np.float32(0.1) * right.T @ left
    up, down = Layer(w1), Layer(w2)
    group = Group(**options)
    group.add_layer(up, "up")
    group.add_layer(down, "down")
    losses = []
    for _ in range(300):
        x = random.centred(1.7, tokens, width)
        cdf = lambda a: np.float32(0.5) * (1 + erf(a * np.float32(0.5**0.5)))
        a = x @ t1.T
        wanted = (a * cdf(a)) @ t2.T
        a, saved_up = up.forward(x)
        y, saved_down = down.forward(a * cdf(a))
        dy = (y - wanted) / tokens
        losses.append(0.5 * tokens * float((dy.astype(np.float64) ** 2).sum()))
        dh = down.backward(dy, saved_down)
        dh *= cdf(a) + a * np.exp(np.float32(-0.5) * a * a) * np.float32(0.39894228)
        up.backward(dh, saved_up, input_gradient=False)
        group.step(learning_rate=learning_rate)
    return [float(np.mean(part)) for part in np.split(np.array(losses), 3)]


@pytest.mark.parametrize(
    "line, learning_rate, options",
    [
        (1, 0.01, {"density": 1, "semantics": "dense_core", "capacity_factor": 0}),
        (2, 0.02, {"density": 0.01, "warmup_steps": 10}),
        (3, 0.02, {"density": 0.01}),
    ],
)
def test_losses_of_the_example_in_cpp(line, learning_rate, options):
    expected = [float(n) for n in (EXAMPLES / "14_mlp.out").read_text().splitlines()[line].split()[-3:]]
    assert losses_of_the_mlp(learning_rate, **options) == pytest.approx(expected, abs=0.0051)
