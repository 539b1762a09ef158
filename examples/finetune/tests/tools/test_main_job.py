"""tools/main_job.py over a program that imitates sparsegrad-glue."""

import os
import subprocess
import sys
import unittest

from fake_program import value_of
from support import FAKE, PATIENCE, TOOLS, FolderCase, markdown_table


class Job(FolderCase):
    def job(self, *more, status=0, **fake):
        words = ["--program", FAKE, "--model", "m", "--output", self.folder / "job", "--jobs", 2, "--no-inspect", *more]
        return self.call("main_job.py", words, status, **fake)

    def table(self):
        return markdown_table((self.folder / "job" / "table.md").read_text(), "run")

    def test_the_table(self):
        self.job()
        table = self.table()
        column = "Matthews correlation"
        self.assertEqual(table["ft"][column], f"{value_of('ft', 42, 'cola', 0):.3f}")
        self.assertEqual(table["frozen MLP"]["minus frozen MLP"], "")
        self.job()
        self.assertEqual(len(self.lines("start")), 4)

    def test_a_failed_run_is_left_out(self):
        text = self.job(status=1, FAKE_FAIL="sparse-best")
        self.assertIn("1 of 4 runs failed", text)
        self.assertEqual(self.table()["sparse (best)"]["Matthews correlation"], "failed")
        self.assertNotEqual(self.table()["sparse (paper)"]["Matthews correlation"], "failed")

    def test_a_rate_at_which_training_fails_is_not_chosen(self):
        self.job("--study", FAKE_FAIL="ft/lr-5e-05/seed-7777")
        self.assertEqual(self.table()["ft"]["learning rate"], "0.0001")
        self.assertIn("| ft | failed |", (self.folder / "job" / "table.md").read_text())

    def test_a_folder_may_have_any_name(self):
        for name in ["-x", " %20#{}'\"\N{LATIN SMALL LETTER U WITH DIAERESIS}\n\udcff?&=;x", "x" * 200]:
            words = ["--program", FAKE, "--model", "m", f"--output={name}", "--no-inspect"]
            self.call("main_job.py", words, cwd=self.folder, LC_ALL="C")
            self.assertTrue((self.folder / name / "table.md").is_file())
            self.assertEqual(len(list((self.folder / name / "runs").glob("*/*/*/run.json"))), 4)

    def test_what_cannot_be_printed_ends_no_run(self):
        """A full disk, a reader that has gone, a closed stdout: the files are written, and the exit status tells."""
        reader, writer = os.pipe()
        os.close(reader)
        with open("/dev/full", "w") as full, open(writer, "w") as broken:
            for stdout, word in ((full, "No space left on device"), (broken, "Broken pipe"), (None, "is closed")):
                for jobs in ("1", "2"):
                    words = ["--program", FAKE, "--model", "m", "--output", self.folder / f"{word}{jobs}", "--no-inspect"]
                    script = [sys.executable, str(TOOLS / "main_job.py"), *map(str, words), "--jobs", jobs]
                    if stdout is None:
                        script = ["sh", "-c", 'exec "$@" >&-', "sh", *script]
                    done = subprocess.run(
                        script, stdout=stdout, stderr=subprocess.PIPE, text=True, env=self.environment(), timeout=PATIENCE
                    )
                    self.assertEqual(done.returncode, 1, done.stderr)
                    self.assertIn(f"main_job.py: standard output: {word}", done.stderr)
                    self.assertTrue((self.folder / f"{word}{jobs}" / "table.md").is_file())

    def test_a_folder_that_cannot_be_made_is_told(self):
        words = ["--program", FAKE, "--model", "m", "--output", "/dev/null/x"]
        text = self.call("main_job.py", words, 1)
        self.assertIn("main_job.py: [Errno 20] Not a directory: '/dev/null/x'", text)
        self.assertNotIn("Traceback", text)


if __name__ == "__main__":
    unittest.main()
