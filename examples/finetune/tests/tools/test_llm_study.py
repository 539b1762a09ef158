"""tools/llm_study.py over a program that imitates sparsegrad-llm: its losses are functions of its options."""

import json
import math
import subprocess
import sys
import unittest

from support import FolderCase, is_running, markdown_table, rows_of

import llm_study

# The best rates are 3e-4, of LoRA 3e-3; meprop fails, and beyond 3e-2 every loss is NaN. A seed moves all kinds alike, but for 0.001.
FAKE = """
import json, math, os, sys, time
def option(name, default=None): return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default
if sys.argv[1] == "--version": print("1"); sys.exit()
with open(os.environ["FAKE_CALLS"], "a") as calls: calls.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "evaluate":
    if "FAKE_WAIT" in os.environ:
        open(os.environ["FAKE_WAIT"], "w").write(str(os.getpid()))
        time.sleep(600)
    trained = "run.txt" in os.listdir(option("--model"))
    print("loss", "2.625" if trained else "2.5")
    if "--choices" in sys.argv:
        # The questions are numbers: the trained model is right where they are even, the other one where they are 0.
        numbers = [json.loads(line)["a"] for line in open(option("--data"))]
        right = sum(n % 2 == 0 if trained else n == 0 for n in numbers) / int(option("--choices"))
        print(f"choice_accuracy {right:.6f} (standard error 0.1; by the whole answer)")
        print(f"choice_accuracy_per_token {right / 2:.6f} (standard error 0.1; by its mean a token)")
    sys.exit()
kind, rate, seed = option("--run-type"), float(option("--learning-rate")), int(option("--seed"))
if kind == "meprop": sys.exit("error: no memory")
if rate > 2e-2: sys.exit("error: the loss is nan, expected a finite number")
best, number = (3e-3, 1) if kind == "lora" else (3e-4, 0)
before = 1.5 + seed / 1e3
loss = before - 0.2 + 0.1 * math.log(rate / best) ** 2 + 0.01 * number + 0.001 * number * (seed % 3)
out = option("--output")
if "--no-save" not in sys.argv:
    os.makedirs(os.path.join(out, "model"))
    open(os.path.join(out, "model", "run.txt"), "w").close()
counts = {"examples": 9, "tokens": 90, "counted": 60}
log = {"options": {"learning_rate": rate}, "data": {"train": counts, "held_out": counts}, "steps_done": 7, "tokens": 90}
log["evaluations"] = [{"step": 0, "loss": before}, {"step": 7, "loss": loss}]
log["best"] = {"step": 7 if loss < before else 0}
log["trained"] = {"dense_parameters": 0, "sparse_parameters": 5000, "sparse_entries_a_step": 1000}
log["steps"] = [{"kept_entries": 700}]
log["memory"] = {"process_peak_bytes": 2**30}
log["phase1"] = {"steps": 0}
log["time"] = {"training_seconds": 30.0, "phase1_seconds": 0}
log["finished"] = True
json.dump(log, open(os.path.join(out, "run.json"), "w"))
"""


class StudyCase(FolderCase):
    def setUp(self):
        super().setUp()
        self.program, self.model, self.data = (self.folder / name for name in ("program", "model", "data.jsonl"))
        self.program.write_text(f"#!{sys.executable}\n" + FAKE)
        self.program.chmod(0o755)
        self.model.mkdir()
        self.data.write_text('{"lang": "en", "a": 1}\n{"lang": "es", "a": 2}\n{"lang": "en", "a": 3}\n')
        self.output = self.folder / "out"

    def study(self, *more, status=0):
        words = ["--program", self.program, "--model", self.model, "--data", self.data, "--output", self.output]
        return self.call("llm_study.py", [*words, *more], status)


class Study(StudyCase):
    def test_rates_seeds_and_tables(self):
        words = ["--kinds", "ft", "lora", "--seeds", 3, 4, 5, "--other", self.data, "--where", "lang=en", "--", "--epochs", "1"]
        self.study(*words)
        text = (self.output / "table.md").read_text()
        rates = markdown_table(text, "mean validation loss, seeds 1, 2")
        # From 3e-4 and 3e-3 to the first worse one on both sides; the search has the seeds 1 and 2.
        self.assertEqual([title for title, cell in rates["ft"].items() if cell], ["1e-4", "3e-4", "1e-3"])
        self.assertEqual(rates["ft"]["3e-4"], "**1.3015**")
        self.assertEqual([title for title, cell in rates["LoRA, rank 32"].items() if cell], ["1e-3", "3e-3", "1e-2"])
        table = markdown_table(text, "run")
        self.assertEqual(table["frozen"]["validation loss"], "1.5040 ± 0.0010")
        self.assertEqual((table["ft"]["rate"], table["ft"]["minus frozen"]), ("3e-4", "-0.2000 [-0.2000, -0.2000]"))
        # Seeds 3, 4 and 5 are 0.010, 0.011 and 0.012 behind: Student's t of 2 degrees times 0.001 / sqrt(3).
        half = 4.302653 * 0.001 / math.sqrt(3)
        self.assertEqual(table["LoRA, rank 32"]["minus ft"], f"+0.0110 [+{0.011 - half:.4f}, +{0.011 + half:.4f}]")
        self.assertEqual(table["ft"]["other text, after minus before"], "+0.1250 [+0.1250, +0.1250]")
        costs = markdown_table(text[text.index("| run | entries") :], "run")
        self.assertEqual((costs["ft"]["entries that may train"], costs["ft"]["that a step changes"]), ("5,000", "700"))
        row = next(row for row in rows_of(self.output / "runs.csv") if row["kind"] == "lora" and row["seed"] == "3")
        self.assertAlmostEqual(float(row["loss"]), 1.503 - 0.2 + 0.01, places=9)
        # Saved models are gone, and what there was is not made again.
        self.assertEqual([*self.output.glob("seeds/**/model")], [])
        calls = self.calls.read_text()
        words[4:7] = [3, 4, 5, 6]
        self.study(*words)
        again = self.calls.read_text().removeprefix(calls).splitlines()
        self.assertEqual([line.split()[0] for line in again], ["train", "evaluate"] * 2)
        chosen = next(self.output.glob("data-*.jsonl"))
        self.assertEqual([json.loads(line)["a"] for line in chosen.read_text().splitlines()], [1, 3])
        self.assertIn(f"--data {chosen}", calls)

    def test_every_seed_has_choices_of_its_own(self):
        questions = self.folder / "questions.jsonl"
        questions.write_text("".join(f'{{"a": {n}}}\n' for n in (0, 1, 2, 4, 5, 3, 0, 6)))
        words = ["--kinds", "ft", "lora-46", "sparse-best", "--choices", questions, "--choices-limit", 2]
        words += ["--seeds", 3, 4, "--rate=ft=3e-4", "--rate=lora-46=3e-3", "--rate=sparse-best=3e-4"]
        self.study(*words)
        text = (self.output / "table.md").read_text()
        table = markdown_table(text, "right choices")
        # Of 0, 1 and of 2, 4: 0 alone before, half and all after.
        self.assertEqual(table["frozen"]["share"], "0.250 ± 0.354")
        self.assertEqual((table["ft"]["share"], table["ft"]["share by the mean a token"]), ("0.750 ± 0.354", "0.375 ± 0.177"))
        self.assertEqual(table["ft"]["minus frozen"], f"+0.500 [{0.5 - 12.706205 * 0.5:.3f}, +{0.5 + 12.706205 * 0.5:.3f}]")
        self.assertEqual(table["LoRA, rank 46: entries of best"]["minus ft"], "+0.000 [+0.000, +0.000]")
        controls = markdown_table(text, "pairs")
        self.assertEqual([*controls], ["sparse (best), one side of 64 minus LoRA, rank 46: entries of best"])
        row = next(row for row in rows_of(self.output / "runs.csv") if row["kind"] == "ft" and row["seed"] == "4")
        self.assertEqual((row["choices_before"], row["choices"], row["choices_per_token"]), ("0.0", "1.0", "0.5"))
        # Other questions are other files: what was found of the first ones is not taken for them, and the models are gone.
        questions.write_text('{"a": 1}\n' * 4)
        self.assertIn("model was removed when it had been measured on other data: remove", self.study(*words, status=1))
        words[words.index("--choices-limit") + 1] = 3
        self.assertIn("has 4 records, expected 3 for each of 2 seeds", self.study(*words, status=1))

    def test_a_kind_that_fails_leaves_the_others(self):
        text = self.study("--kinds", "meprop", "ft", "--seeds", 3, status=1)
        self.assertIn("meProp, 5 % of a row of dY, rate 0.0003, seed 1: status 1: error: no memory", text)
        table = markdown_table((self.output / "table.md").read_text(), "run")
        self.assertEqual([*table], ["frozen", "ft"])

    def test_killed_it_leaves_no_evaluation_behind(self):
        pid = self.folder / "pid"
        words = ["--program", self.program, "--model", self.model, "--data", self.data, "--output", self.output, "--other", self.data]
        process = self.start("llm_study.py", [*words, "--kinds", "ft", "--rate", "ft=3e-4"], stdout=subprocess.DEVNULL, FAKE_WAIT=str(pid))
        self.wait_for(lambda: pid.exists() and pid.read_text(), "an evaluation")
        process.kill()
        process.wait()
        self.wait_for(lambda: not is_running(int(pid.read_text())), "the end of the evaluation")

    def test_a_rate_of_ones_own(self):
        self.study("--kinds", "ft", "--rate", "ft=2e-4", "--seeds", 3)
        self.assertEqual(len(self.calls.read_text().splitlines()), 1)

    def test_what_cannot_be_read_is_refused(self):
        self.assertIn("--seeds and --search-seeds both have 2", self.study("--seeds", 2, 3, status=1))
        self.assertIn("expected KIND=NUMBER", self.study("--rate", "ft=no", status=1))
        self.assertIn("no record has lang=fr", self.study("--where", "lang=fr", status=1))


class Search(unittest.TestCase):
    def search(self, loss, start):
        tried = {}
        while (place := llm_study.next_place(tried, start)) is not None:
            tried[place] = loss(place)
        return tried

    def test_the_best_has_a_worse_one_on_both_sides(self):
        for start in range(-12, -2):
            tried = self.search(lambda place: (place + 7) ** 2, start)
            self.assertEqual({-8, -7, -6} - {*tried}, set(), start)

    def test_rates_that_diverge(self):
        tried = self.search(lambda place: llm_study.DIVERGED if place > -7 else -place, -3)
        self.assertEqual(min(tried, key=tried.get), -7)
        self.assertIn(-8, tried)
        self.assertLessEqual(len(self.search(lambda place: llm_study.DIVERGED, -3)), 8)

    def test_grid(self):
        self.assertEqual([llm_study.grid_rate(place) for place in range(-9, -5)], [3e-5, 1e-4, 3e-4, 1e-3])
        self.assertEqual([llm_study.place_of(rate) for rate in (1e-4, 3e-3)], [-8, -5])


if __name__ == "__main__":
    unittest.main()
