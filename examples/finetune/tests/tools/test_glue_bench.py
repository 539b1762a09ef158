"""tools/glue_bench.py over a program that imitates sparsegrad-glue."""

import json
import math
import os
import pathlib
import statistics
import sys
import unittest

from fake_program import value_of
from support import FAKE, FolderCase, is_running, markdown_table, needs_matplotlib, rows_of

import glue_bench

TABLES = ["table.md", "table.csv", "pairs.csv", "runs.csv"]
SEEDS = [42, 3705, 2023]
N_PARAMS = 28000 / (768 * 3072)


class BenchCase(FolderCase):
    TASKS, KINDS = ["cola", "mrpc"], ["ft", "lora"]

    def setUp(self):
        super().setUp()
        self.output = self.folder / "bench"

    def words(self, *more, tasks=None, kinds=None, output=None):
        words = ["--program", FAKE, "--model", "m", "--data", "d", "--output", output or self.output, "--jobs", 2]
        return [*words, "--tasks", *(tasks or self.TASKS), "--kinds", *(kinds or self.KINDS), *more]

    def bench(self, *more, status=0, tasks=None, kinds=None, output=None, **fake):
        # The plots have tests of their own, and take longer than all the rest.
        fake.setdefault("PYTHONPATH", str(self.without_matplotlib()))
        return self.call("glue_bench.py", self.words(*more, tasks=tasks, kinds=kinds, output=output), status, **fake)

    def without_matplotlib(self):
        place = self.folder / "without"
        place.mkdir(exist_ok=True)
        (place / "matplotlib.py").write_text("raise ImportError('left out by the test')\n")
        return place

    def tables(self, output=None):
        return {name: ((output or self.output) / name).read_text() for name in TABLES}

    def command(self, task, kind, seed=42):
        """The words of train that the run was made with."""
        return json.loads((self.output / "runs" / task / kind / f"seed-{seed}" / "command.json").read_text())["options"]


class Tables(BenchCase):
    def test_values_of_all_tables(self):
        tasks, kinds = ["cola", "mrpc", "stsb", "mnli", "wnli"], ["ft", "lora", "sparse-paper"]
        self.bench(tasks=tasks, kinds=kinds, FAKE_MISMATCHED="/mnli/")
        text = (self.output / "table.md").read_text()
        types = {"ft": ("ft", 0), "lora": ("LoRA", 0), "sparse-paper": ("sparse (paper)", N_PARAMS)}
        value = {
            (task, kind, seed): value_of(kind.split("-")[0], seed, task, types[kind][1])
            for task in tasks
            for kind in kinds
            for seed in SEEDS
        }

        def spread(values):
            return f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"

        table = markdown_table(text, "run")
        further = [row for row in text.split("Further metrics")[1:]][0]
        further = markdown_table(further, "run")
        rows = {(row["kind"], row["task"], row["metric"]): row for row in rows_of(self.output / "table.csv")}
        for kind, (title, _) in types.items():
            for task in tasks:
                values = [value[task, kind, seed] for seed in SEEDS]
                self.assertEqual(table[title][task], spread(values))
                metric = {"cola": "matthews_correlation", "stsb": "pearson"}.get(task, "accuracy")
                row = rows[kind, task, metric]
                self.assertAlmostEqual(float(row["mean"]), statistics.mean(values), delta=1e-6)
                self.assertAlmostEqual(float(row["sd"]), statistics.stdev(values), delta=1e-6)
            for name, of in {"average": tasks, "average without wnli": tasks[:-1]}.items():
                values = [statistics.mean(value[task, kind, seed] for task in of) for seed in SEEDS]
                self.assertEqual(table[title][name], spread(values))
            # The fake program's second metric is a hundredth below its first.
            for task, column in {
                "mrpc": "mrpc, F1",
                "stsb": "stsb, Spearman correlation",
                "mnli": "mnli, accuracy, mismatched",
            }.items():
                self.assertEqual(further[title][column], spread([value[task, kind, s] - 0.01 for s in SEEDS]))
        self.assertNotIn("†", text)
        self.assertNotIn("Not complete", text)

        pairs = markdown_table(text, "minus ft")
        rows = {(row["kind"], row["task"]): row for row in rows_of(self.output / "pairs.csv")}
        for kind, title in (("lora", "LoRA"), ("sparse-paper", "sparse (paper)")):
            for name, of in {"cola": ["cola"], "average": tasks, "average without wnli": tasks[:-1]}.items():
                own, other = (
                    [statistics.mean(value[task, k, seed] for task in of) for seed in SEEDS] for k in (kind, "ft")
                )
                differences = [x - y for x, y in zip(own, other)]
                # 4.302653: Student's t of two degrees of freedom.
                half = 4.302653 * statistics.stdev(differences) / math.sqrt(3)
                mean = statistics.mean(differences)
                for column, expected in {"mean": mean, "low": mean - half, "high": mean + half}.items():
                    self.assertAlmostEqual(float(rows[kind, name][column]), expected, delta=2e-6)
                shown = f"{100 * mean:+.2f} [{100 * (mean - half):+.2f}, {100 * (mean + half):+.2f}]"
                self.assertEqual(pairs[title][name], shown)

        # 2.0 + 0.1 a type + 0.01 (seed % 13), and 200 + 10 a type + seed % 13 MiB; the seeds give 3, 0 and 8.
        speed = markdown_table(text, "steps/s")
        self.assertEqual(speed["LoRA"]["cola"], "2.14 ± 0.04")
        self.assertEqual(speed["LoRA"]["average"], "2.14 ± 0.04")
        memory = markdown_table(text, "peak MiB")
        self.assertEqual(memory["LoRA"]["mrpc"], "218")
        self.assertEqual(memory["sparse (paper)"]["average"], "228 (phase 1: 300)")

    def test_runs_csv_has_a_row_of_numbers_a_run(self):
        self.bench()
        rows = rows_of(self.output / "runs.csv")
        self.assertEqual(len(rows), 12)
        row = next(r for r in rows if (r["task"], r["kind"], r["seed"]) == ("mrpc", "lora", "2023"))
        self.assertEqual(row["status"], "finished")
        self.assertAlmostEqual(float(row["accuracy"]), value_of("lora", 2023, "mrpc", 0), delta=1e-6)
        self.assertAlmostEqual(float(row["f1"]), value_of("lora", 2023, "mrpc", 0) - 0.01, delta=1e-6)
        self.assertEqual(row["matthews_correlation"], "")
        expected = {"learning_rate": 1e-4, "batch_size": 32, "best_step": 6, "steps": 12, "steps_per_second": 2.18}
        expected |= {"peak_bytes": 218 * 2**20, "exit_status": 0}
        for name, value in expected.items():
            self.assertAlmostEqual(float(row[name]), value, msg=name)

    def test_without_wnli_and_with_one_task_there_is_no_such_average(self):
        self.bench("--seeds", 1)
        self.assertEqual(list(markdown_table(self.tables()["table.md"], "run")["ft"])[1:], ["cola", "mrpc", "average"])
        self.bench("--seeds", 1, tasks=["cola"])
        self.assertEqual(list(markdown_table(self.tables()["table.md"], "run")["ft"])[1:], ["cola"])

    def test_an_undefined_metric_is_marked(self):
        self.bench(FAKE_UNDEFINED="cola/lora/seed-42,mrpc/lora")
        text = self.tables()["table.md"]
        table = markdown_table(text, "run")
        values = [0.0, *(value_of("lora", seed, "cola", 0) for seed in SEEDS[1:])]
        shown = f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f} †"
        self.assertEqual(table["LoRA"]["cola"], shown)
        self.assertEqual(table["LoRA"]["mrpc"], "0.00 ± 0.00 †")
        self.assertNotIn("†", table["ft"]["cola"])
        self.assertIn("undefined in a run", text)
        rows = {(r["task"], r["kind"], r["seed"]): r for r in rows_of(self.output / "runs.csv")}
        self.assertEqual(rows["cola", "lora", "42"]["undefined"], "matthews_correlation")
        self.assertEqual(rows["cola", "lora", "42"]["matthews_correlation"], "0.0")
        self.assertEqual(rows["cola", "lora", "2023"]["undefined"], "")

    def test_a_lone_seed_has_no_interval(self):
        self.bench("--seeds", 1, tasks=["cola"])
        row = rows_of(self.output / "pairs.csv")[0]
        self.assertEqual((row["pairs"], row["low"], row["high"]), ("1", "", ""))
        self.assertNotIn("±", markdown_table(self.tables()["table.md"], "run")["ft"]["cola"])


class Failures(BenchCase):
    def test_the_others_go_on(self):
        text = self.bench(status=1, FAKE_FAIL="cola/lora/seed-42,mrpc/ft")
        self.assertIn("4 of 12 runs failed", text)
        text = self.tables()["table.md"]
        table = markdown_table(text, "run")
        self.assertEqual(table["ft"]["mrpc"], "failed")
        self.assertEqual(table["ft"]["average"], "failed")
        self.assertTrue(table["LoRA"]["cola"].endswith("(2 of 3)"), table["LoRA"]["cola"])
        self.assertNotIn("of", table["LoRA"]["mrpc"])
        self.assertIn("8 of 12 runs are finished, 4 failed", text)
        self.assertIn("- cola, LoRA, seed 42: status 1: error: the loss is nan, expected a finite number", text)
        self.assertEqual(markdown_table(text, "minus ft")["LoRA"]["mrpc"], "-")
        rows = {(r["task"], r["kind"], r["seed"]): r for r in rows_of(self.output / "runs.csv")}
        row = rows["cola", "lora", "42"]
        self.assertEqual((row["status"], row["exit_status"], row["matthews_correlation"]), ("failed", "1", ""))
        self.assertIn("the loss is nan", row["error"])
        self.assertEqual(sum(r["status"] == "finished" for r in rows.values()), 8)

        # Called again, it tries those alone.
        before = len(self.lines("start"))
        self.bench()
        self.assertEqual(len(self.lines("start")) - before, 4)
        undisturbed = self.folder / "undisturbed"
        self.bench(output=undisturbed)
        self.assertEqual(self.tables(), self.tables(undisturbed))

    def test_a_program_that_cannot_be_run(self):
        broken = self.folder / "broken"
        broken.write_text("#!/nowhere/python\n")
        broken.chmod(0o755)
        self.assertIn("--program", self.bench("--program", broken, status=1))


class Kills(BenchCase):
    def test_killed_at_any_point_it_gives_the_same_tables(self):
        undisturbed = self.folder / "undisturbed"
        self.bench("--seeds", 1, 2, output=undisturbed)
        # Lines of the fake program's calls at which the bench is killed: in the first run, between two, amid others.
        for point in (1, 8, 14, 37, 70):
            with self.subTest(point=point):
                output = self.folder / f"killed-{point}"
                self.calls.unlink(missing_ok=True)
                fake = {"FAKE_SECONDS": "0.02", "PYTHONPATH": str(self.without_matplotlib())}
                words = self.words("--seeds", 1, 2, output=output)
                process = self.start("glue_bench.py", words, **fake)
                self.wait_for(lambda: len(self.lines()) >= point or process.poll() is not None, f"line {point}")
                process.kill()
                process.communicate()
                self.assertEqual(process.returncode, -9)
                pids = {int(line[1]) for line in self.lines("start")}
                if sys.platform.startswith("linux"):
                    self.wait_for(lambda: not any(map(is_running, pids)), "the end of what the bench had started")
                ended = {line[2] for line in self.lines("end")}
                before = len(self.lines("start"))
                self.bench("--seeds", 1, 2, output=output)
                again = [line[2] for line in self.lines("start")[before:]]
                self.assertFalse(ended & set(again), "a finished run was repeated")
                self.assertEqual(self.tables(output), self.tables(undisturbed))
        self.assertIn("resumed", [line[3] for line in self.lines("start")])

    @unittest.skipUnless(sys.platform.startswith("linux"), "only Linux ends a child with its parent")
    def test_what_a_killed_bench_left_is_not_joined(self):
        """A run that takes its time to end keeps the next bench out of its folder so long. It is told once: the program
        takes a second signal for an order to end without a checkpoint."""
        undisturbed = self.folder / "undisturbed"
        self.bench("--seeds", 1, output=undisturbed)
        process = self.start("glue_bench.py", self.words("--seeds", 1), FAKE_HANG="cola/ft")
        self.wait_for(lambda: self.lines("hangs"), "the run that hangs")
        process.kill()
        process.communicate()
        self.bench("--seeds", 1)
        kinds = [line[0] for line in self.lines() if line[2].startswith(str(self.output / "runs/cola/ft"))]
        self.assertEqual(kinds[:5], ["start", "hangs", "told", "ended", "start"])
        self.assertEqual(self.tables(), self.tables(undisturbed))

    def test_two_benches_in_one_folder_are_refused(self):
        process = self.start("glue_bench.py", self.words("--seeds", 1), FAKE_HANG="cola/ft")
        try:
            self.wait_for(lambda: self.lines("hangs"), "the run that hangs")
            text = self.bench("--seeds", 1, status=1)
            self.assertIn(f"process {process.pid} writes there", text)
            folders = [line[2] for line in self.lines("start")]
            self.assertEqual(sum("cola/ft" in folder for folder in folders), 1)
        finally:
            process.kill()
            process.communicate()
            for line in self.lines("hangs"):
                self.wait_for(lambda line=line: not is_running(line[1]), "the end of the run")

    def test_the_tables_can_be_watched(self):
        process = self.start("glue_bench.py", self.words("--seeds", 1, "--jobs", 1), FAKE_HANG="mrpc/ft")
        try:
            self.wait_for(lambda: self.lines("hangs"), "the run that hangs")
            text = self.tables()["table.md"]
        finally:
            process.kill()
            process.communicate()
        self.assertIn("2 of 4 runs are finished, 2 are missing", text)
        table = markdown_table(text, "run")
        self.assertEqual(table["ft"]["cola"], f"{100 * value_of('ft', 1, 'cola', 0):.2f}")
        self.assertEqual((table["ft"]["mrpc"], table["ft"]["average"]), ("-", "-"))
        self.assertEqual(
            [row["status"] for row in rows_of(self.output / "runs.csv")], ["finished"] * 2 + ["missing"] * 2
        )

    def test_ctrl_c_ends_what_runs_and_starts_nothing(self):
        process = self.start("glue_bench.py", self.words("--jobs", 1), FAKE_HANG="cola/ft/seed-42")
        self.wait_for(lambda: self.lines("hangs"), "the run that hangs")
        process.send_signal(2)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertEqual([line[0] for line in self.lines()], ["start", "hangs", "told", "ended"])


class Options(BenchCase):
    def test_a_finished_bench_makes_nothing(self):
        self.bench()
        before, tables = self.lines(), self.tables()
        self.bench()
        self.assertEqual(self.lines(), before)
        self.assertEqual(self.tables(), tables)

    def test_other_options_make_it_anew(self):
        self.bench("--seeds", 1, "--", "--epochs", 2)
        text = self.bench("--seeds", 1, "--", "--epochs", 3)
        self.assertIn("made anew, it has other options", text)
        self.assertEqual([line[3] for line in self.lines("start")], ["new"] * 8)

    def test_only_what_a_rate_changes_is_made_anew(self):
        self.bench("--seeds", 1)
        self.bench("--seeds", 1, "--rate", "cola/ft=0.5")
        self.assertEqual([pathlib.Path(line[2]).parts[-3:-1] for line in self.lines("start")[4:]], [("cola", "ft")])

    def test_rates_by_kind_and_by_task(self):
        kind = "sparse-paper+n-params=1000"
        rates = ["--rate", "ft=0.25", "--rate", "mrpc/ft=0.125", "--rate", f"{kind}=0.5"]
        text = self.bench("--seeds", 42, *rates, "--rate", "lora=1", kinds=["ft", kind])
        self.assertIn("--rate lora=1: no run of this task and kind here", text)
        rows = {(r["task"], r["kind"]): float(r["learning_rate"]) for r in rows_of(self.output / "runs.csv")}
        self.assertEqual(rows, {("cola", "ft"): 0.25, ("mrpc", "ft"): 0.125, ("cola", kind): 0.5, ("mrpc", kind): 0.5})
        table = markdown_table(self.tables()["table.md"], "run")
        self.assertEqual(table["ft"]["learning rate / batch"], "by task")
        self.assertEqual(markdown_table(self.tables()["table.md"], "learning rate / batch")["ft"]["mrpc"], "0.125 / 32")

    def test_the_paper_s_rates(self):
        kinds = ["ft", "lora", "sparse-paper", "sparse-best", "meprop"]
        text = self.bench("--seeds", 42, "--rates", "paper", tasks=["cola"], kinds=kinds)
        self.assertIn("--rates paper does not apply to sparse-best", text)
        for kind in ("ft", "lora", "sparse-paper", "meprop"):
            words = self.command("cola", kind)
            self.assertEqual(words[words.index("--preset") + 1], "paper", kind)
            self.assertEqual(words.count("--preset"), 1)
            self.assertFalse({"--learning-rate", "--batch-size"} & set(words), kind)
        words = self.command("cola", "sparse-best")
        self.assertEqual(words[words.index("--preset") + 1], "best")
        self.assertEqual(words[words.index("--learning-rate") + 1], "5e-05")
        rows = {r["kind"]: (float(r["learning_rate"]), int(r["batch_size"])) for r in rows_of(self.output / "runs.csv")}
        self.assertEqual(rows["ft"], (1e-5, 16))
        self.assertEqual(rows["sparse-best"], (5e-5, 32))

    def test_options_of_a_search(self):
        best = self.folder / "best.json"
        best.write_text('{"learning-rate": 0.0625, "batch-size": 16}')
        self.bench("--seeds", 42, "--options-of", f"cola/lora={best}")
        words = self.command("cola", "lora")
        self.assertEqual(words[words.index("--options") + 1], str(best))
        self.assertFalse({"--learning-rate", "--batch-size"} & set(words))
        rows = {(r["task"], r["kind"]): r for r in rows_of(self.output / "runs.csv")}
        self.assertEqual(float(rows["cola", "lora"]["learning_rate"]), 0.0625)
        self.assertEqual(rows["cola", "lora"]["batch_size"], "16")
        self.assertEqual(rows["mrpc", "lora"]["batch_size"], "32")
        # The file's content is an option, too.
        best.write_text('{"learning-rate": 0.03125}')
        self.bench("--seeds", 42, "--options-of", f"cola/lora={best}")
        rows = {(r["task"], r["kind"]): r for r in rows_of(self.output / "runs.csv")}
        self.assertEqual(float(rows["cola", "lora"]["learning_rate"]), 0.03125)
        self.assertEqual(rows["cola", "lora"]["batch_size"], "32")

    def test_a_kind_s_own_batch_counts(self):
        self.bench("--seeds", 42, tasks=["cola"], kinds=["ft+batch-size=16"])
        self.assertEqual(rows_of(self.output / "runs.csv")[0]["batch_size"], "16")

    def test_a_file_has_the_words_of_the_command_line(self):
        self.bench("--seeds", 1, "--rate", "ft=0.5", "--", "--epochs", 2)
        tables = self.tables()
        file = self.folder / "bench.json"
        content = {"program": str(FAKE), "model": "m", "data": "d", "jobs": 2, "tasks": self.TASKS, "kinds": self.KINDS}
        content |= {"seeds": [1], "rate": ["ft=0.5"], "more": ["--epochs", "2"], "output": str(self.folder / "other")}
        file.write_text(json.dumps(content))
        without = {"PYTHONPATH": str(self.without_matplotlib())}
        self.call("glue_bench.py", ["--file", file], **without)
        self.assertEqual(self.tables(self.folder / "other"), tables)
        # The command line has precedence; what the file made is of the same options, and is not repeated.
        before = len(self.lines("start"))
        self.call("glue_bench.py", ["--file", file, "--tasks", "cola", "--seeds", 1, 2], **without)
        self.assertEqual(len(self.lines("start")) - before, 2)

    def test_words_that_are_refused(self):
        for words, expected in {
            ("--rate", "ft=fast"): "expected a positive number",
            ("--rate", "nothing=1"): "expected KIND=VALUE or TASK/KIND=VALUE",
            ("--baseline", "topk"): "--baseline",
            ("--options-of", "ft=nowhere.json"): "nowhere.json",
            ("--kinds", "ft", "no-kind"): "--kinds has 'no-kind'",
        }.items():
            self.assertIn(expected, self.bench(*words, status=1))
        self.bench("--rates", "best", status=2)


class Plots(BenchCase):
    @needs_matplotlib
    def test_every_plot_is_there(self):
        kinds = ["ft", "sparse-paper", "sparse-paper+n-params=100000", "topk"]
        text = self.bench("--seeds", 1, 2, kinds=kinds, PYTHONPATH=os.environ.get("PYTHONPATH", ""))
        for name in ("metric_and_cost.png", "sparsity.png", "curves_cola.png", "curves_mrpc.png"):
            self.assertEqual((self.output / name).read_bytes()[:8], b"\x89PNG\r\n\x1a\n", name)
            self.assertIn(name, text)

    def test_without_matplotlib_it_is_said(self):
        text = self.bench("--seeds", 1)
        self.assertIn("matplotlib is missing", text)
        self.assertFalse(list(self.output.glob("*.png")))


class Sparsity(unittest.TestCase):
    def test_lines_differ_in_nothing_but_the_share(self):
        kinds = ["ft", "sparse-paper", "sparse-paper+n-params=100", "sparse-paper+rotated-bias+share=0.2"]
        kinds += ["sparse-paper+share=0.1+rotated-bias", "sparse-best"]
        shares = [None, 0.01, 0.001, 0.2, 0.1, 1.0]
        bench = glue_bench.Bench(["cola"], kinds, [1], "ft")
        for number, (kind, share) in enumerate(zip(kinds, shares)):
            log = {
                "options": {"learning_rate": 1, "batch_size": 1, "sparse": {"share": share}},
                "best": {"step": 1, "metric": "accuracy", "value": number / 8},
                "evaluations": [{"step": 1, "metrics": {"accuracy": number / 8}}],
                "time": {"steps_per_second": 1},
                "memory": {"process_peak_bytes": 1},
                "phase1": {"steps": 0},
            }
            bench.runs["cola", kind, 1] = glue_bench.Run(log)
        lines = bench.sparsity_lines()
        self.assertEqual(sorted(lines), ["sparse (paper)", "sparse (paper), rotated-bias"])
        self.assertEqual(lines["sparse (paper)"], [(1.0, 12.5, 0.0), (0.1, 25.0, 0.0)])
        self.assertEqual(lines["sparse (paper), rotated-bias"], [(20.0, 37.5, 0.0), (10.0, 50.0, 0.0)])


if __name__ == "__main__":
    unittest.main()
