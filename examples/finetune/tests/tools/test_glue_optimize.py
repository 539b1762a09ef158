"""tools/glue_optimize.py over a program that imitates sparsegrad-glue."""

import contextlib
import json
import os
import sqlite3
import types
import unittest
import unittest.mock

from support import FAKE, HAS_OPTUNA, HERE, FolderCase, is_running, needs_optuna

import glue_optimize


class Pruned(Exception):
    pass


class Trial:
    """What run_trial asks of Optuna's."""

    def __init__(self, prunes_at=None):
        self.reports, self.prunes_at = [], prunes_at

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return self.prunes_at is not None and len(self.reports) >= self.prunes_at


class TrialRun(FolderCase):
    OPTUNA = types.SimpleNamespace(TrialPruned=Pruned)

    def run_trial(self, trial, *more, **fake):
        own = unittest.mock.patch.dict(os.environ, self.environment(**fake))
        own.start()
        self.addCleanup(own.stop)
        folder = self.folder / "trial"
        command = [str(FAKE), "train", "--task", "cola", "--run-type", "ft", "--output", str(folder), *more]
        return glue_optimize.run_trial(trial, self.OPTUNA, command, folder)

    def test_metrics_are_reported_at_the_examples_seen(self):
        for batch in (16, 32):
            trial = Trial()
            value = self.run_trial(trial, "--batch-size", str(batch))
            # The fake program evaluates after every second of 12 steps.
            self.assertEqual([step for step, _ in trial.reports], [2 * batch * n for n in range(1, 7)])
            self.assertEqual(value, max(value for _, value in trial.reports))

    def test_of_a_language_model_the_loss_is_made_small(self):
        trial, folder = Trial(), self.folder / "trial"
        command = [str(HERE / "fake_llm.py"), "train", "--run-type", "sparse", "--output", str(folder)]
        self.assertEqual(glue_optimize.run_trial(trial, self.OPTUNA, command, folder), -0.5)
        self.assertEqual(trial.reports, [(0, -1.5), (480, -0.5)])

    def test_a_pruned_trial_s_run_is_ended(self):
        with self.assertRaises(Pruned):
            self.run_trial(Trial(prunes_at=1), FAKE_SECONDS="0.5")
        self.assertFalse(is_running(int(self.lines("start")[0][1])))
        self.assertFalse(self.lines("end"))

    def test_a_loss_that_is_no_number_prunes(self):
        with self.assertRaises(Pruned):
            self.run_trial(Trial(), "--learning-rate", "2")

    def test_another_error_is_a_failure(self):
        with self.assertRaises(glue_optimize.TrialFailed) as failure:
            self.run_trial(Trial(), FAKE_ABORT="trial")
        self.assertIn("status -9", str(failure.exception))

    def test_what_an_older_study_left_is_not_read(self):
        self.run_trial(Trial())
        trial = Trial()
        with self.assertRaises(glue_optimize.TrialFailed):
            # It ends before its first evaluation.
            self.run_trial(trial, "--options", "nowhere.json")
        self.assertEqual(trial.reports, [])

    def test_a_program_that_says_much_is_not_held_up(self):
        noisy = self.folder / "noisy"
        noisy.write_text("#!/bin/sh\nhead -c 300000 /dev/zero >&2\n")
        noisy.chmod(0o755)
        value = glue_optimize.run_trial(Trial(), self.OPTUNA, [str(noisy)], self.folder / "trial")
        self.assertEqual(value, 0.0)


class Search(FolderCase):
    def words(self, *more, trials=5):
        words = ["--program", FAKE, "--output", self.folder / "search", "--trials", trials, "--rates", "1e-5,1e-1"]
        return [*words, *more, "--", "--task", "cola", "--run-type", "ft"]

    def search(self, *more, status=0, trials=5, **fake):
        return self.call("glue_optimize.py", self.words(*more, trials=trials), status, **fake)

    def best(self):
        return json.loads((self.folder / "search" / "best.json").read_text())

    @unittest.skipIf(HAS_OPTUNA, "optuna is there")
    def test_without_optuna(self):
        self.search(status=3)

    @needs_optuna
    def test_it_writes_the_best_and_goes_on(self):
        self.search()
        best = self.best()
        self.assertEqual(set(best), {"learning-rate", "batch-size"})
        starts = self.lines("start")
        self.assertEqual(len(starts), 5)
        for line in starts:
            self.assertIn("--held-out 0.1", " ".join(line))
        self.assertIn("best of 5 trials", self.search())
        self.assertEqual(len(self.lines("start")), 5)
        self.search(trials=6)
        self.assertEqual(len(self.lines("start")), 6)

    @needs_optuna
    def test_the_study_is_in_the_folder_whatever_its_name(self):
        """SQLAlchemy takes a URL, which ends a path at a "?"; Optuna formats it, alembic expands a "%"."""
        strange = " %20#{}'\"\N{LATIN SMALL LETTER U WITH DIAERESIS}\n\udcff?&=;x"
        names = ["lr?a", "lr?b", "50%20x", strange, "x" * 200, "-x"]
        for name in names:
            output = self.folder / name
            output.mkdir()
            words = ["--program", FAKE, f"--output={output}", "--trials", 1, "--", "--task", "cola", "--run-type", "ft"]
            text = self.call("glue_optimize.py", words, FAKE_CALLS=str(self.folder / "calls"))
            self.assertIn("best of 1 trials", text)
            with contextlib.closing(sqlite3.connect(output / "study.db")) as study:
                self.assertEqual(study.execute("select count(*) from trials").fetchone(), (1,), name)
            self.assertTrue((output / "trials" / "0" / "run.json").is_file())
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), sorted([*names, "calls"]))
        # It goes on from there, also where the name is a relative one that looks like an option.
        words = ["--program", FAKE, "--output=-x", "--trials", 2, "--", "--task", "cola", "--run-type", "ft"]
        self.assertIn("best of 2 trials", self.call("glue_optimize.py", words, cwd=self.folder))

    @needs_optuna
    def test_on_dev_nothing_is_held_out(self):
        self.search("--objective", "dev", trials=1)
        self.assertNotIn("--held-out", " ".join(self.lines("start")[0]))

    @needs_optuna
    def test_no_trial_starts_after_the_timeout(self):
        self.search("--timeout", "1", trials=50, FAKE_SECONDS="0.2")
        self.assertEqual(len(self.lines("start")), 1)
        self.best()

    @needs_optuna
    def test_killed_it_goes_on_with_the_same_trial(self):
        process = self.start("glue_optimize.py", self.words(), FAKE_SECONDS="0.2")
        self.wait_for(lambda: len(self.lines("start")) == 3, "the third trial")
        process.kill()
        process.communicate()
        # The best of the first two is there already.
        self.best()
        self.wait_for(lambda: not is_running(int(self.lines("start")[2][1])), "the end of its run")
        self.search()
        starts = [line[4:] for line in self.lines("start")]
        self.assertEqual(len(starts), 6)

        def rate(words):
            return words[words.index("--learning-rate") + 1]

        self.assertEqual(rate(starts[3]), rate(starts[2]))

    @needs_optuna
    def test_a_second_search_at_once_is_refused(self):
        process = self.start("glue_optimize.py", self.words(), FAKE_SECONDS="0.2")
        try:
            self.wait_for(lambda: self.lines("start"), "the first trial")
            self.assertIn(f"process {process.pid} writes there", self.search(status=1))
        finally:
            process.kill()
            process.communicate()

    @needs_optuna
    def test_other_options_are_refused(self):
        self.search(trials=1)
        self.assertIn("a search with other options", self.search("--objective", "dev", status=1))

    @needs_optuna
    def test_options_with_which_nothing_runs_end_it(self):
        text = self.search(status=1, FAKE_ABORT="trials")
        self.assertIn("status -9", text)
        self.assertEqual(len(self.lines("start")), 1)

    @needs_optuna
    def test_a_failing_trial_does_not_end_it(self):
        text = self.search(FAKE_ABORT="trials/2")
        self.assertIn("trial 2 failed", text)
        self.assertEqual(len(self.lines("start")), 5)


if __name__ == "__main__":
    unittest.main()
