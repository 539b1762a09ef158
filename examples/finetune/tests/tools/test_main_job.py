"""tools/main_job.py over a program that imitates sparsegrad-glue."""

import unittest

from fake_program import value_of
from support import FAKE, FolderCase, markdown_table


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


if __name__ == "__main__":
    unittest.main()
