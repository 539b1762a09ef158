"""Statistics, the lock and the runner of tools/glue_runs.py."""

import fcntl
import json
import math
import os
import subprocess
import sys
import threading
import time
import unittest

from support import FAKE, FolderCase

import glue_runs


def t_distribution(x, freedom):
    """Its value at x, by Simpson's rule over the density."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    parts = 4000
    width = x / parts

    def density(t):
        return scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)

    inner = sum((4 if i % 2 else 2) * density(i * width) for i in range(1, parts))
    return 0.5 + (density(0) + inner + density(x)) * width / 3


class Statistics(unittest.TestCase):
    def test_an_undefined_metric_counts_as_nothing(self):
        def log(*values):
            best = max((value for value in values if value is not None), default=None)
            evaluations = [{"metrics": {"pearson": value}} for value in values]
            return {"best": best and {"metric": "pearson", "value": best}, "evaluations": evaluations}

        for values, best in (((-0.2, None), 0.0), ((None, 0.3), 0.3), ((-0.2, -0.1), -0.1), ((None,), 0.0)):
            self.assertEqual(glue_runs.best_of(log(*values)), best)

    def test_quantiles_are_those_of_published_tables(self):
        for freedom, expected in {1: 12.706, 2: 4.303, 4: 2.776, 9: 2.262, 30: 2.042, 40: 2.021, 120: 1.980}.items():
            self.assertAlmostEqual(glue_runs.t_quantile(freedom), expected, delta=5e-4)

    def test_quantiles_leave_a_fortieth_above_them(self):
        for freedom in [*range(1, 41), 60, 100, 1000]:
            found = t_distribution(glue_runs.t_quantile(freedom), freedom)
            self.assertAlmostEqual(found, 0.975, delta=1e-7, msg=f"{freedom} degrees of freedom")

    def test_interval_of_five_pairs(self):
        # sd = sqrt(2.5), half = 2.776445 * sqrt(2.5) / sqrt(5)
        mean, low, high = glue_runs.confidence([1, 2, 3, 4, 5])
        self.assertEqual(mean, 3)
        self.assertAlmostEqual(low, 3 - 1.963243, delta=1e-5)
        self.assertAlmostEqual(high, 3 + 1.963243, delta=1e-5)
        self.assertEqual(glue_runs.interval([1, 2, 3, 4, 5], 2), "+3.00 [+1.04, +4.96]")

    def test_a_single_pair_has_no_interval(self):
        self.assertEqual(glue_runs.confidence([2.0]), (2.0, None, None))
        self.assertEqual(glue_runs.interval([2.0], 1), "+2.0")


class Lock(FolderCase):
    def test_a_living_holder_is_told(self):
        with glue_runs.locked(self.folder):
            with self.assertRaises(SystemExit) as refused, glue_runs.locked(self.folder):
                pass
        self.assertIn(f"process {os.getpid()} writes there", str(refused.exception))

    def test_it_is_free_again(self):
        for _ in range(2):
            with glue_runs.locked(self.folder):
                pass

    def test_what_an_ended_bench_left_is_waited_for(self):
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        with open(self.folder / "lock", "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.write(str(ended.pid))
            held.flush()
            threading.Timer(0.3, lambda: fcntl.flock(held, fcntl.LOCK_UN)).start()
            start = time.monotonic()
            with glue_runs.locked(self.folder):
                self.assertGreater(time.monotonic() - start, 0.2)
            with self.assertRaises(SystemExit):
                fcntl.flock(held, fcntl.LOCK_EX)
                held.truncate(0)
                held.seek(0)
                held.write(str(ended.pid))
                held.flush()
                with glue_runs.locked(self.folder, patience=0.2):
                    pass


class Runs(FolderCase):
    """A runner in this process."""

    OPTIONS = ["--task", "cola", "--run-type", "ft", "--model", "m", "--seed", "1"]

    def setUp(self):
        super().setUp()
        os.environ.update(self.environment())
        self.program = self.folder / "program"
        self.program.write_bytes(FAKE.read_bytes())
        self.program.chmod(0o755)
        self.place = self.folder / "run"

    def run_once(self, options=(), **settings):
        runner = glue_runs.Runner(self.program, jobs=2, **settings)
        return runner.run("a run", [*self.OPTIONS, *options], self.place)

    def starts(self):
        return [line[3] for line in self.lines("start")]

    def test_a_finished_run_is_not_repeated(self):
        first = self.run_once()
        self.assertEqual(self.run_once(), first)
        self.assertEqual(self.starts(), ["new"])

    def test_other_options_empty_the_folder_first(self):
        self.run_once()
        (self.place / "checkpoint" / "state.safetensors").write_text("of the old run")
        (self.place / "model").mkdir()
        log = self.run_once(["--learning-rate", "0.5"])
        self.assertEqual(log["options"]["learning_rate"], 0.5)
        self.assertEqual(self.starts(), ["new", "new"])
        self.assertFalse((self.place / "model").exists())
        self.assertFalse((self.place / "checkpoint" / "state.safetensors").exists())

    def test_another_build_makes_it_anew(self):
        self.run_once()
        self.program.write_bytes(FAKE.read_bytes() + b"# another build\n")
        self.run_once(any_program=True)
        self.assertEqual(self.starts(), ["new"])
        self.run_once()
        self.assertEqual(self.starts(), ["new", "new"])

    def test_another_build_is_no_excuse_for_other_options(self):
        self.run_once()
        self.program.write_bytes(FAKE.read_bytes() + b"# another build\n")
        self.run_once(["--learning-rate", "0.5"], any_program=True)
        self.assertEqual(self.starts(), ["new", "new"])

    def test_an_unfinished_run_of_another_build_is_made_anew(self):
        self.run_once()
        log = json.loads((self.place / "run.json").read_text())
        (self.place / "run.json").write_text(json.dumps({**log, "finished": False}))
        self.program.write_bytes(FAKE.read_bytes() + b"# another build\n")
        self.run_once(any_program=True)
        self.assertEqual(self.starts(), ["new", "new"])

    def test_a_torn_stamp_counts_as_none(self):
        self.run_once()
        stamp = (self.place / "command.json").read_text()
        for torn in ("", stamp[: len(stamp) // 2], "[]"):
            (self.place / "command.json").write_text(torn)
            self.run_once()
        self.assertEqual(self.starts(), ["new"] * 4)

    def test_a_torn_log_counts_as_none(self):
        self.run_once()
        log = (self.place / "run.json").read_text()
        (self.place / "run.json").write_text(log[: len(log) // 2])
        self.assertTrue(self.run_once()["finished"])
        self.assertEqual(self.starts(), ["new", "resumed"])

    def test_what_a_file_of_options_says_counts(self):
        file = self.folder / "best.json"
        file.write_text('{"learning-rate": 0.25}')
        self.assertEqual(self.run_once(["--options", file.as_posix()])["options"]["learning_rate"], 0.25)
        file.write_text('{"learning-rate": 0.125}')
        self.assertEqual(self.run_once(["--options", file.as_posix()])["options"]["learning_rate"], 0.125)

    def test_a_failure_is_told_with_its_last_line(self):
        failed = self.run_once(["--learning-rate", "2"])
        self.assertEqual(failed, glue_runs.Failed(1, "error: the loss is nan, expected a finite number"))
        self.assertEqual(json.loads((self.place / "failed.json").read_text())["status"], 1)
        # It is tried again, from where it was.
        self.run_once(["--learning-rate", "2"])
        self.assertEqual(self.starts(), ["new", "resumed"])

    def test_a_signal_is_told_by_name(self):
        os.environ["FAKE_ABORT"] = "run"
        self.addCleanup(os.environ.pop, "FAKE_ABORT")
        self.assertEqual(self.run_once(), glue_runs.Failed(-9, "ended by SIGKILL"))

    def test_a_program_that_is_not_there(self):
        with self.assertRaises(SystemExit) as refused:
            glue_runs.Runner(self.folder / "nothing")
        self.assertIn("--program", str(refused.exception))


if __name__ == "__main__":
    unittest.main()
