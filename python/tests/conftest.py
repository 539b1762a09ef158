"""Numbers that the C++ and C tests use too."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # beside other tests, spinning threads take their time

import numpy as np
import pytest

import sparsegrad


class StdRandom:
    """std::mt19937 and the uniform numbers that the examples in C++ make of it."""

    def __init__(self, seed=5489):
        self.bits = np.random.MT19937()
        self.bits._legacy_seeding(seed)

    def fractions(self, *shape):
        """In [0, 1), of float32."""
        raw = np.asarray(self.bits.random_raw(int(np.prod(shape)))) >> 8
        return (raw.astype(np.float32) * np.float32(2**-24)).reshape(shape)

    def centred(self, size, *shape):
        """In [-size, size), of float32."""
        return np.float32(size) * (2 * self.fractions(*shape) - 1)


@pytest.fixture
def random():
    return np.random.default_rng(1)


@pytest.fixture(params=sparsegrad.backends())
def context(request):
    """A context of every backend that the build has."""
    return sparsegrad.Context(threads=1, backend=request.param)
