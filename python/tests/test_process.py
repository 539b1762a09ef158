"""Lifetimes, threads, forks, and the interpreter's exit."""

import gc
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import weakref

import numpy as np
import pytest

import sparsegrad
from sparsegrad import Context, Group, Layer, Side, TuckerBasis


class Watched(np.ndarray):
    """An array that weak references may watch."""


def watched(*shape):
    return np.ones(shape, np.float32).view(Watched)


def gone(reference):
    gc.collect()
    return reference() is None


def test_a_group_keeps_its_weights():
    group = Group(density=1)
    w = watched(4, 3)
    reference = weakref.ref(w)
    group.add_weight(w)
    del w
    assert not gone(reference)
    group.set_gradient(0, np.ones((4, 3), np.float32))
    group.step(learning_rate=0.1)
    np.testing.assert_allclose(reference(), 0.9, atol=1e-6)
    group.rebind(0, np.ones((4, 3), np.float32))
    assert gone(reference)
    w = watched(4, 3)
    reference = weakref.ref(w)
    group.add_weight(w)
    del w
    group.remove(1)
    assert gone(reference)
    w = watched(4, 3)
    reference = weakref.ref(w)
    group.add_weight(w)
    del w, group
    assert gone(reference)


def test_gradients_are_kept_until_the_step():
    group = Group(density=1)
    group.add_weight(np.zeros((4, 3), np.float32))
    for end in (
        lambda: group.step(learning_rate=0.1),
        lambda: group.clear(),
        lambda: group.set_gradient(0, np.ones((4, 3), np.float32)),
    ):
        g = watched(4, 3)
        reference = weakref.ref(g)
        group.set_gradient(0, g)
        del g
        assert not gone(reference)
        end()
        assert gone(reference)


def test_nothing_is_kept_of_a_call_that_failed():
    group = Group()
    w = watched(3)
    reference = weakref.ref(w)
    with pytest.raises(ValueError):
        group.add_weight(w)
    with pytest.raises(ValueError):
        group.rebind(0, w)
    del w
    assert gone(reference)


def test_layers_and_saved_inputs():
    w, x = watched(5, 7), watched(6, 7)
    of_w, of_x = weakref.ref(w), weakref.ref(x)
    layer = Layer(w)
    group = Group(density=1)
    group.add_layer(layer)
    _, saved = layer.forward(x)
    del w, x
    assert not gone(of_w) and not gone(of_x)
    layer.backward(np.ones((6, 5), np.float32), saved)
    del saved
    assert gone(of_x)
    del layer
    assert not gone(of_w)
    group.step(learning_rate=0.1)
    del group
    assert gone(of_w)


def test_arrays_that_are_lent_cannot_be_resized():
    w = np.zeros((4, 3), np.float32)
    group = Group()
    group.add_weight(w)
    with pytest.raises(ValueError):
        w.resize((400, 300))
    del group
    w.resize((40, 30))


def test_what_needs_a_context_keeps_it():
    context = Context(threads=2)
    group, basis = Group(context=context), TuckerBasis.fit([np.eye(3, dtype=np.float32)], context=context)
    del context
    gc.collect()
    group.add_weight(np.zeros((3, 3), np.float32))
    group.set_basis(0, basis)
    del group
    gc.collect()
    assert basis.energy(np.eye(3, dtype=np.float32), 3).basis_top_k == pytest.approx(1)


def test_release_that_calls_back():
    """Freeing an array may run Python code that calls the same context."""
    context = Context(threads=1)
    group, other = Group(density=1, context=context), Group(density=1, context=context)
    other.add_weight(np.zeros((2, 2), np.float32))
    steps = []
    group.add_weight(np.zeros((4, 3), np.float32))
    g = watched(4, 3)
    reference = weakref.ref(g, lambda _: steps.append(other.step(learning_rate=0.1)))
    group.set_gradient(0, g)
    del g
    group.step(learning_rate=0.1)
    gc.collect()
    assert reference() is None and len(steps) == 1


def test_threads_share_a_context():
    context = Context(threads=2, backend="eigen")
    weights = [np.ones((24, 16), np.float32) for _ in range(4)]
    failures = []

    def train(w):
        try:
            group = Group(density=0.2, warmup_steps=3, context=context)
            group.add_weight(w)
            random = np.random.default_rng(3)
            for _ in range(30):
                group.set_gradient(0, random.standard_normal((24, 16)).astype(np.float32))
                group.step(learning_rate=0.01)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=train, args=(w,)) for w in weights]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for w in weights[1:]:
        np.testing.assert_array_equal(w, weights[0])


def test_threads_on_one_group():
    group = Group(density=1, context=Context(threads=1))
    w = np.zeros((8, 8), np.float32)
    group.add_weight(w)
    stop, failures = threading.Event(), []

    def gradients():
        try:
            while not stop.is_set():
                try:
                    group.set_gradient(0, np.ones((8, 8), np.float32))
                except sparsegrad.StateError:  # the other thread has asked for the norm
                    pass
                group.squared_norm()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=gradients) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        group.step(learning_rate=0.01)
        group.clear()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and np.isfinite(w).all()


def test_other_threads_run_during_a_long_call(random):
    """They would not, with the GIL held: the count would all but stand still."""
    given = [random.standard_normal((600, 600)).astype(np.float32)]
    context = Context(threads=1, backend="eigen")
    counted, stop = [0], threading.Event()

    def count():
        while not stop.wait(0.001):
            counted[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    TuckerBasis.fit(given, in_side=Side.identity(), context=context)
    during = counted[0] - before
    stop.set()
    thread.join()
    assert during > 5


def test_contexts():
    assert Context(threads=2).threads == 2
    assert Context(backend="eigen").backend == "eigen"
    assert "eigen" in sparsegrad.backends()
    for options, text in (
        ({"threads": -1}, "threads is -1"),
        ({"backend": "cuda"}, "backend is 'cuda', expected 'default', 'eigen', 'blas' or 'onednn'"),
    ):
        with pytest.raises(ValueError, match=text):
            Context(**options)
    with pytest.raises(TypeError):
        Context(2)
    other = Group(context=Context(threads=1))
    with pytest.raises(ValueError, match="another context"):
        other.add_layer(Layer(np.zeros((3, 2), np.float32)))
    bits = []
    for threads in (1, 3):
        context = Context(threads=threads, backend="eigen", deterministic=True)
        g = np.random.default_rng(1).standard_normal((40, 30)).astype(np.float32)
        bits.append(TuckerBasis.fit([g], context=context).v.tobytes())
    assert bits[0] == bits[1]


def run(program, **options):
    """Runs a program of its own; what it wrote."""
    lines = "import os, sys, threading, time\nimport numpy as np\nimport sparsegrad as sg\n"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", lines + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_exit_with_everything_alive():
    run(
        """
        group = sg.Group(density=1)
        w = np.zeros((4, 3), np.float32)
        group.add_weight(w)
        group.set_gradient(0, np.ones((4, 3), np.float32))
        layer = sg.Layer(w.copy())
        saved = layer.forward(np.ones((2, 3), np.float32))
        sys.keep = [group, layer, saved, sg.Side.hosvd(), group.basis(0)]
        class Last:
            def __del__(self):
                group.step(learning_rate=0.1)
        sys.last = Last()
        import atexit
        atexit.register(lambda: group.clear())
        """
    )


def test_exit_while_a_thread_computes():
    run(
        """
        def forever():
            group = sg.Group(density=0.2, context=sg.Context(threads=2, backend="eigen"))
            group.add_weight(np.zeros((300, 300), np.float32))
            g = np.random.default_rng(1).standard_normal((300, 300)).astype(np.float32)
            while True:
                group.set_gradient(0, g)
                group.step(learning_rate=0.1)
                sg.top_k(g, 100)
        for _ in range(3):
            threading.Thread(target=forever, daemon=True).start()
        time.sleep(0.3)
        """
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child():
    text = run(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        context = sg.Context(threads=2, backend="eigen")
        g = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
        kept = sg.TuckerBasis.fit([g], context=context)
        sg.top_k(g, 3)
        child = os.fork()
        if child == 0:
            try:
                kept.energy(g, 3)
            except sg.StateError as error:
                print(error, flush=True)
            print(sg.top_k(g, 3).positions.size, flush=True)  # the default context is made anew
            new = sg.Context(threads=2, backend="eigen")
            print(sg.TuckerBasis.fit([g], context=new).core_shape, flush=True)
            del kept, context
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(kept.energy(g, 3).kept_block > 0.99)
        """
    )
    assert text.splitlines()[0].startswith("the context was made by the parent of this process")
    assert text.splitlines()[1:] == ["3", "(64, 64)", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_a_parent_has_made_is_refused_in_a_fork_by_multiprocessing():
    text = run(
        """
        import multiprocessing
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        fork = multiprocessing.get_context("fork")
        g = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
        def trained():
            context = sg.Context(threads=3, backend="eigen")
            group = sg.Group(density=0.5, context=context)
            group.add_weight(np.zeros((64, 64), np.float32))
            group.set_gradient(0, g)
            group.step(learning_rate=0.1)
            return context, group
        context, group = trained()
        basis = sg.TuckerBasis.fit([g], context=context)
        adam = sg.SparseAdam((2, 3), context=context)
        def work(answers):
            global context, group, basis, adam
            for call in (
                lambda: group.step(learning_rate=0.1),
                lambda: group.warming_up,
                lambda: sg.top_k(g, 3, context=context),
                lambda: context.threads,
                lambda: basis.core_shape,
                lambda: adam.steps,
            ):
                try:
                    call()
                except sg.StateError as error:
                    answers.put(str(error))
            for of_parent in (group, context, basis, adam):
                answers.put(repr(of_parent))
            of_parent = group = context = basis = adam = None  # what frees them must not wait for their threads
            answers.put(repr(trained()[1]))
        answers = fork.Queue()
        child = fork.Process(target=work, args=(answers,), daemon=True)  # one that hangs is ended
        child.start()
        for _ in range(11):
            print(answers.get(timeout=60))
        child.join()
        print(child.exitcode)
        group.set_gradient(0, g)
        group.step(learning_rate=0.1)
        print(group)
        """
    )
    lines = text.splitlines()
    for line in lines[:6]:
        assert "was made by" in line and "anew" in line
    assert lines[6:10] == [
        f"<{name} of the parent of this process>" for name in ("Group", "Context", "TuckerBasis", "SparseAdam")
    ]
    assert lines[10:] == ["<Group of 1 weight of float32, 1 step>", "0", "<Group of 1 weight of float32, 2 steps>"]


@pytest.mark.filterwarnings("ignore:nanobind:RuntimeWarning")
def test_objects_without_init():
    """What a class's own __init__ forgets to call."""
    array = np.ones((3, 2), np.float32)
    group, layer, context, adam = (
        cls.__new__(cls) for cls in (Group, Layer, Context, sparsegrad.SparseAdam)
    )
    for call in (
        lambda: group.step(learning_rate=0.1),
        lambda: layer.forward(array),
        lambda: Group().add_layer(layer),
        lambda: Group(context=context),
        lambda: adam.steps,
        lambda: Group().set_basis(0, TuckerBasis.__new__(TuckerBasis)),
    ):
        with pytest.raises(TypeError):
            call()
    group = Group(density=1)
    group.add_weight(array)
    with pytest.raises(TypeError):
        group.__init__()
    assert len(group) == 1


def test_errors_are_of_both_kinds():
    for error, builtin in (
        (sparsegrad.ShapeError, ValueError),
        (sparsegrad.ArgumentError, ValueError),
        (sparsegrad.NonFiniteError, ArithmeticError),
        (sparsegrad.StateError, RuntimeError),
        (sparsegrad.CapacityError, RuntimeError),
        (sparsegrad.FileError, OSError),
    ):
        assert issubclass(error, sparsegrad.Error) and issubclass(error, builtin)
        assert error.__module__ == "sparsegrad"


def test_what_the_package_shows():
    for name in sparsegrad.__all__:
        assert getattr(sparsegrad, name).__doc__
    folder = os.path.dirname(sparsegrad.__file__)
    assert os.path.exists(os.path.join(folder, "py.typed"))
    with open(os.path.join(folder, "_core.pyi")) as stub:
        text = stub.read()
    assert "def add_weight(self, weight: Array, kind: str = ''" in text
    if sys.platform == "linux" and shutil.which("nm"):  # no other symbol: it may stand beside the library itself
        nm = subprocess.run(["nm", "-D", "--defined-only", sparsegrad._core.__file__], capture_output=True, text=True)
        assert [line.split()[-1] for line in nm.stdout.splitlines()] == ["PyInit__core"]
    header = os.path.join(os.path.dirname(__file__), "../../include/sparsegrad/version.hpp")
    with open(header) as version:
        assert f'"{sparsegrad.__version__}"' in version.read()
