"""Bases, against numpy's SVD, products written out, and the table of examples/04_bases."""

import pathlib

import numpy as np
import pytest

import sparsegrad
from conftest import StdRandom
from sparsegrad import Side, TuckerBasis

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def gradients(random, count=4, out=7, in_=5):
    return [random.standard_normal((out, in_)).astype(np.float32) for _ in range(count)]


def test_hosvd_is_that_of_numpy(random, context):
    given = gradients(random)
    basis = TuckerBasis.fit(given, in_side=Side.hosvd(3), context=context)
    # The unfoldings side by side: their left singular vectors are the factors.
    for factor, unfolded, rank in (
        (basis.v, np.hstack(given), 7),
        (basis.u, np.hstack([g.T for g in given]), 3),
    ):
        vectors, values, _ = np.linalg.svd(unfolded.astype(np.float64))
        vectors = vectors[:, :rank]
        largest = np.abs(vectors).argmax(axis=0)
        vectors *= np.sign(vectors[largest, np.arange(rank)])  # each vector's largest entry is positive
        np.testing.assert_allclose(factor, vectors, atol=2e-5)
        spectrum = basis.out_spectrum if rank == 7 else basis.in_spectrum
        np.testing.assert_allclose(spectrum, values**2, rtol=1e-5)
    assert basis.shape == (7, 5) and basis.core_shape == (7, 3)
    assert basis.gradients == 4 and basis.nbytes > 0
    total = sum(float((g.astype(np.float64) ** 2).sum()) for g in given)
    assert basis.total_energy == pytest.approx(total, rel=1e-6)
    assert basis.out_kept_energy == 1
    kept = float(basis.in_spectrum[:3].sum()) / total
    assert basis.in_kept_energy == pytest.approx(kept, rel=1e-6)


def test_core_energy_and_expansion(random, context):
    given = gradients(random)
    g = given[0]
    basis = TuckerBasis.fit(given, out_side=Side.hosvd(4), context=context)
    v, u = basis.v.astype(np.float64), basis.u.astype(np.float64)
    core = basis.project(g)
    assert core.dtype == np.float32 and core.shape == (4, 5)
    np.testing.assert_allclose(core, v.T @ g @ u, atol=1e-5)
    np.testing.assert_allclose(basis.expand(core), v @ core @ u.T, atol=1e-5)
    energy = basis.energy(g, 6)
    total = np.sum(g.astype(np.float64) ** 2)
    squares = lambda a: np.sort(a.astype(np.float64).ravel() ** 2)[::-1]
    assert energy.raw_top_k == pytest.approx(squares(g)[:6].sum() / total, rel=1e-5)
    assert energy.basis_top_k == pytest.approx(squares(core)[:6].sum() / total, rel=1e-5)
    assert energy.kept_block == pytest.approx(squares(core).sum() / total, rel=1e-5)
    assert energy._fields == ("raw_top_k", "basis_top_k", "kept_block")


def test_recipes_without_gradients(context):
    basis = TuckerBasis.fit(
        [], shape=(8, 6), out_side=Side.random(3, seed=7), in_side=Side.hadamard(), context=context
    )
    assert basis.core_shape == (3, 6) and basis.gradients == 0
    assert np.isnan(basis.out_kept_energy) and len(basis.out_spectrum) == 0
    np.testing.assert_allclose(basis.v.T @ basis.v, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(basis.u.T @ basis.u, np.eye(6), atol=1e-5)
    identity = TuckerBasis.fit([], shape=(8, 6), out_side=Side.identity(), in_side=Side.identity())
    np.testing.assert_array_equal(identity.u, np.eye(6))


def test_energy_as_rank(random):
    given = gradients(random)
    basis = TuckerBasis.fit(given, out_side=Side.hosvd(energy=0.6), in_side=Side.identity())
    shares = np.cumsum(basis.out_spectrum) / basis.total_energy
    assert basis.core_shape == (int(np.searchsorted(shares, 0.6)) + 1, 5)


def test_own_factors(random):
    v = np.linalg.qr(random.standard_normal((6, 2)))[0].astype(np.float32)
    u = np.eye(4, dtype=np.float32)
    basis = TuckerBasis.from_factors(v, u)
    np.testing.assert_array_equal(basis.v, v)
    v[:] = 0  # it holds copies
    assert np.abs(basis.v).max() > 0.1
    with pytest.raises(sparsegrad.ArgumentError, match="columns of V are not orthonormal"):
        TuckerBasis.from_factors(v, u)
    TuckerBasis.from_factors(u * np.float32(1.01), u, tolerance=0.1)


def test_a_table_of_gradients_is_a_sequence_of_them(random):
    stacked = np.stack(gradients(random))
    np.testing.assert_array_equal(TuckerBasis.fit(stacked).v, TuckerBasis.fit(list(stacked)).v)
    np.testing.assert_array_equal(TuckerBasis.fit(iter(stacked)).v, TuckerBasis.fit(list(stacked)).v)


def test_numbers_of_the_example_in_cpp():
    """The table that examples/04_bases.cpp prints, from the same random numbers."""
    out, in_, directions = 128, 96, 12
    random = StdRandom()
    half = np.float32(0.5)
    left = random.fractions(directions, out) - half
    right = random.fractions(directions, in_) - half

    def next_gradient():
        dw = np.float32(0.02) * (random.fractions(out, in_) - half)
        for l in range(directions):
            strength = (random.fractions(1)[0] - half) / np.float32(1 + l)
            dw += (strength * left[l])[:, None] * right[l]
        return dw

    given = [next_gradient() for _ in range(20)]
    following = next_gradient()
    side = {"identity": Side.identity(), "full": Side.hosvd(), "64": Side.hosvd(64), "8": Side.hosvd(8)}
    side |= {"0.99": Side.hosvd(energy=0.99), "random": Side.random(), "hadamard": Side.hadamard()}
    context = sparsegrad.Context(threads=1, backend="eigen")
    lines = (EXAMPLES / "04_bases.out").read_text().splitlines()
    assert len(lines) == 10
    for line in lines[1:9]:
        out_side, in_side, rows, _, cols, nbytes, kept, top = line.split()
        basis = TuckerBasis.fit(given, out_side=side[out_side], in_side=side[in_side], context=context)
        assert basis.core_shape == (int(rows), int(cols)) and basis.nbytes == int(nbytes)
        bound = max(0.0, basis.out_kept_energy + basis.in_kept_energy - 1)
        assert bound == pytest.approx(float(kept), abs=0.006)
        energy = basis.energy(following, out * in_ // 100)
        assert energy.basis_top_k == pytest.approx(float(top), abs=0.006)


@pytest.mark.parametrize(
    "error, text, call",
    [
        (ValueError, "neither gradients nor a shape", lambda: TuckerBasis.fit([])),
        (sparsegrad.StateError, "gradient", lambda: TuckerBasis.fit([], shape=(3, 2))),
        (ValueError, "gradient 1", lambda: TuckerBasis.fit([np.ones((3, 2), "f4"), np.ones((2, 3), "f4")])),
        (ArithmeticError, "gradient 0", lambda: TuckerBasis.fit([np.full((3, 2), np.nan, "f4")])),
        (TypeError, "gradient 0 is of float64", lambda: TuckerBasis.fit([np.ones((3, 2))])),
        (TypeError, "not iterable", lambda: TuckerBasis.fit(3)),
        (TypeError, "gradient 0 is None", lambda: TuckerBasis.fit([None])),
        (ValueError, "rank is 0", lambda: Side.hosvd(0)),
        (ValueError, "rank and energy", lambda: Side.hosvd(2, 0.5)),
        (ValueError, "energy is 1.5", lambda: Side.hosvd(energy=1.5)),
        (ValueError, "energy is nan", lambda: Side.hosvd(energy=float("nan"))),
        (ValueError, "-3", lambda: TuckerBasis.fit([], shape=(-3, 2), out_side=Side.identity(), in_side=Side.identity())),
        (TypeError, "constructor", lambda: TuckerBasis()),
    ],
)
def test_what_is_refused(error, text, call):
    with pytest.raises(error, match=text):
        call()


def test_wrong_gradients_for_a_basis(random):
    basis = TuckerBasis.fit(gradients(random))
    with pytest.raises(sparsegrad.ShapeError):
        basis.energy(np.ones((5, 7), np.float32), 3)
    with pytest.raises(sparsegrad.ShapeError):
        basis.project(np.ones((5, 7), np.float32))
    with pytest.raises(sparsegrad.ShapeError):
        basis.expand(np.ones((5, 7), np.float32))
    with pytest.raises(ValueError, match="k"):
        basis.energy(np.ones((7, 5), np.float32), -1)
    with pytest.raises(sparsegrad.NonFiniteError):
        basis.energy(np.full((7, 5), np.inf, np.float32), 3)


def test_sides_are_values():
    assert Side.hosvd(3) == Side.hosvd(3) != Side.hosvd(4)
    assert Side.hosvd(3) != "Side.hosvd(rank=3)"
    assert len({Side.identity(), Side.identity(), Side.random(seed=2)}) == 2
    assert repr(Side.hosvd(energy=0.5)) == "Side.hosvd(energy=0.5)"
