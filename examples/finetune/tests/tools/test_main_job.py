"""tools/main_job.py over a program that imitates sparsegrad-glue."""

import io
import json
import os
import subprocess
import sys
import unittest
import unittest.mock

from fake_program import value_of
from support import FAKE, PATIENCE, TOOLS, FolderCase, markdown_table, needs_matplotlib

import main_job


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
        self.assertEqual(len(self.lines("start")), 5)

    def options(self, kind):
        """{option: value} of the run of a kind."""
        words = next(line for line in self.lines("start") if f"/runs/{kind}/" in line[2])
        return dict(zip(words, words[1:]))

    def test_the_quick_run_is_one_in_which_the_mlp_matrices_decide(self):
        self.job()
        for kind in main_job.COMPARED:
            options = self.options(kind)
            self.assertEqual(options["--train-parameters"], "mlp")
            self.assertEqual(float(options["--learning-rate"]), main_job.KINDS[kind]["mlp_rate"])
            self.assertEqual(options["--dtype"], "auto")
        text = (self.folder / "job" / "table.md").read_text()
        self.assertIn("the MLP matrices, their biases and the head train", text)
        self.assertIn("What you have just seen: ", text)

    def test_lora_has_as_many_entries_as_the_paper_changes(self):
        for width, inner, rank in ((384, 1536, "4"), (768, 3072, "7"), (128, 512, "1"), (8, 8, "1")):
            model = self.folder / f"model{width}"
            model.mkdir()
            (model / "config.json").write_text(json.dumps({"hidden_size": width, "intermediate_size": inner}))
            self.calls.unlink(missing_ok=True)
            self.job("--model", model, "--dtype", "float")
            self.assertEqual(self.options("lora")["--lora-rank"], rank)
            self.assertEqual(self.options("ft")["--dtype"], "float")
            self.assertIn(f"LoRA, rank {rank}", self.table())

    def test_other_seeds_and_kinds(self):
        self.job("--seeds", 1, 2, 2, "--also", "topk", "--also", "lora")
        self.assertEqual(len(self.lines("start")), 2 * 6)
        self.assertIn("±", self.table()["top-k, no basis"]["Matthews correlation"])

    def test_a_failed_run_is_left_out(self):
        text = self.job(status=1, FAKE_FAIL="sparse-best")
        self.assertIn("1 of 5 runs failed", text)
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
            self.assertEqual(len(list((self.folder / name / "runs").glob("*/*/*/run.json"))), 5)

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


class Conclusion(unittest.TestCase):
    """The sentence at the end follows from the numbers."""

    def conclude(self, seeds=(1,), **scores):
        """Scores by kind, with "_" for "-", of each seed; None where the runs failed."""
        logs = {}
        for kind, values in scores.items():
            kind = kind.replace("_", "-")
            dense = {"ft": 1100, "lora": 113}.get(kind, 100)
            logs[kind] = {}
            for seed, value in zip(seeds, values or ()):
                logs[kind][seed] = {
                    "best": {"value": value},
                    "data": {"dev": {"examples": 800}},
                    "trained": {"dense_parameters": dense, "sparse_parameters": 1000, "sparse_entries_a_step": 12},
                    "memory": {"process_peak_bytes": 200 if kind == "ft" else 150},
                }
        return main_job.conclusion(logs, main_job.KINDS)

    def test_shares_of_the_gain(self):
        text = self.conclude(ft=[0.6], sparse_paper=[0.5], sparse_best=[0.65], lora=[0.05], frozen_mlp=[0.1])
        self.assertEqual(
            text,
            "with its MLP matrices frozen the model gets a Matthews correlation of 0.10 on dev, and with all their entries "
            "trained 0.60; of that gain sparse (paper) reaches 80 % by changing 1.2 % of the entries a step, sparse (best) "
            "reaches 110 % in 75 % of the memory and LoRA reaches 0 % with 1.3 % as many entries (differences below 0.10, "
            "20 % of the gain, may be chance).",
        )

    def test_a_gain_within_chance_is_none(self):
        for ft in (0.19, 0.1, 0.0):
            self.assertIn("says nothing about the methods", self.conclude(ft=[ft], sparse_paper=[0.9], frozen_mlp=[0.1]))
        # Seeds that differ more than the mean gains.
        text = self.conclude((1, 2), ft=[0.9, 0.1], sparse_paper=[0.9, 0.9], frozen_mlp=[0.1, 0.1])
        self.assertIn("says nothing about the methods", text)
        self.assertIn("0.10 with 800", self.conclude(ft=[0.1], frozen_mlp=[0.1]))

    def test_failed_runs(self):
        self.assertIn("the runs of ft and frozen MLP failed", self.conclude(ft=None, lora=[0.5], frozen_mlp=None))
        text = self.conclude(ft=[0.6], sparse_paper=None, sparse_best=None, lora=[0.6], frozen_mlp=[0.1])
        self.assertIn("; of that gain LoRA reaches 100 %", text)
        self.assertNotIn("sparse", text)
        text = self.conclude(ft=[0.6], sparse_paper=None, frozen_mlp=[0.1])
        self.assertIn("trained 0.60 (differences", text)


@needs_matplotlib
class InspectPlots(unittest.TestCase):
    RUN = {
        "model": {"directory": "/models/minilm", "layers": 6, "hidden": 384},
        "data": {"task": "cola", "train": {"examples": 8551}},
    }

    def test_no_label_is_cut_off(self):
        import plot_inspect

        share = {"up": 0.5, "down": 0.5}
        name = "the reference code's rotation (U^T for U), a kind"
        spaces = [{"name": name, "mean": share, "up": [0.5], "down": [0.5]}] * 8
        data = {"spaces": spaces, "kept_entries": 28000, "measured_step": 500, **self.RUN}
        figures = []
        with unittest.mock.patch.object(plot_inspect.plt, "close", figures.append):
            plot_inspect.draw_shares(data, io.BytesIO())
        # At the resolution that the sizes below are of.
        figures[0].canvas.draw()
        axes, page = figures[0].axes[0], figures[0].bbox
        self.assertIn("minilm (6 layers of width 384) on cola", " ".join(figures[0].get_suptitle().split()))
        for label in [figures[0]._suptitle, axes.xaxis.label, *axes.get_yticklabels()]:
            box = label.get_window_extent()
            self.assertTrue(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0, f"{label}: {box} in {page}")

    def test_no_title_runs_into_another(self):
        import numpy as np
        import plot_inspect

        figures = []
        name = "the reference code's rotation (U^T for U), a kind"
        data = {"spaces": [{"key": str(number), "name": name} for number in range(8)], "measured_step": 500, **self.RUN}
        values = (1, 0, 1e-3, np.nan, 2, 3, 1e-30, 5)
        pictures = [(space["key"], np.full((12, 3), value)) for space, value in zip(data["spaces"], values)]
        with unittest.mock.patch.object(plot_inspect.plt, "close", figures.append):
            plot_inspect.draw_pictures("layer0 up", pictures, data, io.BytesIO())
        figures[0].canvas.draw()
        self.assertIn("minilm (6 layers of width 384) on cola", " ".join(figures[0].get_suptitle().split()))
        boxes = [axes.title.get_window_extent() for axes in figures[0].axes if axes.get_title()]
        boxes += [axes.get_window_extent() for axes in figures[0].axes]
        boxes += [text.get_window_extent() for text in figures[0].texts]
        boxes.append(figures[0].axes[-1].yaxis.label.get_window_extent())
        for number, box in enumerate(boxes):
            for other in boxes[:number]:
                self.assertFalse(box.overlaps(other), f"{box} and {other}")

    def test_a_row_of_two_has_room_for_its_labels(self):
        import numpy as np
        import plot_inspect

        figures = []
        data = {"spaces": [], "measured_step": 500, **self.RUN}
        with unittest.mock.patch.object(plot_inspect.plt, "close", figures.append):
            plot_inspect.draw_pictures("layer0 up", [("raw", np.ones((4, 4))), ("random", np.ones((4, 4)))], data, io.BytesIO())
        figures[0].canvas.draw()
        page = figures[0].bbox
        for label in [*figures[0].texts, figures[0].axes[-1].yaxis.label]:
            box = label.get_window_extent()
            self.assertTrue(page.x0 <= box.x0 and box.x1 <= page.x1, f"{label}: {box} in {page}")
            self.assertTrue(page.y0 <= box.y0 and box.y1 <= page.y1, f"{label}: {box} in {page}")


if __name__ == "__main__":
    unittest.main()
