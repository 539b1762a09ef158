"""The scripts behind `benchmarks/run.sh processor`, with stand-ins for the programs: what they measure, and their pages."""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from processor_fakes import BENCHMARKS, CASES, GLUE, MACHINE, FolderCase

import bert_step
import case_program
import grid_cells
import grid_page
import parts
import peers
import report
import unittest
import unittest.mock


def bert_data(**changed):
    seconds = {
        "ft, padded to 128, bf16": [1.0, 1.2],
        "ft, padded to 128, float": [6.0, 6.0],
        "torch, padded to 128, bf16": [2.5, 2.4],
        "torch, padded to 128, float": [6.6, 6.6],
        "sparse (best), padded to 128, bf16": [0.7, 0.9],
        "sparse (paper), padded to 128, bf16": [1.5, 1.8],
    }
    data = {"command": "c", "date": "d", "machine": MACHINE, "size": "base", "model": "m", "extents": [12, 768, 12, 30522], "threads": 2}
    data.update({"rounds": 2, "steps": 4, "warm": 2, "with_data": True, "load_before": 0, "load_after": 0, "torch": {"torch": "2"}, "torch_missing": ""})
    data.update({"seconds": seconds, "peak_bytes": {}, "products": {}, "product_flops": {"bf16": [4e12, 4e12]}, "failed": {}})
    return {**data, **changed}


def verdicts(data):
    return {t["what"]: (t["found"], case_program.verdict(t["met"], t["why"])) for t in bert_step.targets(data)}


class BertTargets(unittest.TestCase):
    def test_on_amx_all_are_judged(self):
        found = verdicts(bert_data())
        # Medians of the ratios of the rounds.
        self.assertEqual(found["ft 32 x 128 in bf16, over torch with bf16 autocast"], ("2.25 (2.00-2.50)", "met"))
        self.assertEqual(found["ft 32 x 128 in bf16, over our own float"], ("5.50 (5.00-6.00)", "met"))
        self.assertEqual(found["one side of rank 64 in bf16, time over ft's"], ("0.72 (0.70-0.75)", "met"))
        self.assertEqual(found["the paper's setting in bf16 at 4096 tokens, time over ft's"], ("1.50 (1.50-1.50)", "**missed**"))
        self.assertEqual(found["ft 32 x 128 in float, over torch"], ("1.10 (1.10-1.10)", "**missed**"))
        # 2.145 TFLOP in 1.0 and 1.2 s, of 4 TFLOP/s
        self.assertEqual(found["ft 32 x 128 in bf16, rate over that of a large bf16 product"], ("0.49 (0.45-0.54)", "**missed**"))

    def test_what_was_not_run_is_not_measured(self):
        data = bert_data(failed={"torch, padded to the longest, bf16": "failed: no memory"})
        data["seconds"]["ft, unpadded, bf16"] = [0.1]
        found = verdicts(data)
        what = "ft on CoLA unpadded in bf16, over torch with bf16 autocast padded to the longest"
        self.assertEqual(found[what], ("", "not measured: torch, padded to the longest, bf16: failed: no memory"))
        self.assertIn("LoRA of rank 51, padded to 128, bf16: not run", found["one side of rank 64 in bf16, time over LoRA's of equal entries"][1])

    def test_without_amx(self):
        found = verdicts(bert_data(machine={**MACHINE, "instruction_set": "avx512-bf16"}))
        self.assertEqual(found["ft 32 x 128 in bf16, over our own float"], ("5.50 (5.00-6.00)", "not measured: this processor has no AMX"))
        self.assertEqual(found["ft 32 x 128 in float, over torch"][1], "**missed**")
        before = "ft 32 x 128 in float, time over that with BLAS products, as before oneDNN"
        data = bert_data(machine={**MACHINE, "instruction_set": "avx2"})
        self.assertIn("not run", verdicts(data)[before][1])
        data["seconds"]["ft by BLAS, padded to 128, float"] = [6.0, 6.0]
        self.assertEqual(verdicts(data)[before], ("1.00 (1.00-1.00)", "met"))
        data["machine"] = MACHINE
        self.assertEqual(verdicts(data)[before][1], "not measured: this processor multiplies bf16")

    def test_page(self):
        page = bert_step.page(bert_data(failed={"torch.compile, padded to 128, bf16": "failed: no compiler"}))
        self.assertIn("| ft, padded to 128 | 6.000 (6.000-6.000) |  |  | 1.100 (1.000-1.200) |  |  | 5.50 (5.00-6.00) |", page)
        self.assertIn("- torch.compile, padded to 128, bf16: failed: no compiler", page)
        # The medians of 6.0 / 6.6, and of 1.0 / 2.5 and 1.2 / 2.4.
        self.assertIn("| ft, padded to 128 / torch, padded to 128 | 0.91 (0.91-0.91) | 0.45 (0.40-0.50) |", page)


class BertRun(FolderCase):
    def run_it(self, *words):
        out = self.folder / "out"
        command = [sys.executable, "-B", str(BENCHMARKS / "bert_step.py"), "--program", self.script("glue", GLUE), "--size", "small"]
        command += ["--cases-program", self.script("cases", CASES), "--steps", "4", "--rounds", "2", "--output", str(out), *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": self.without_torch()})
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads((out / "bert_small.json").read_text()), (out / "bert_small.md").read_text()

    def test_what_fails_or_is_missing_is_said(self):
        data, page = self.run_it("--only", "ft, padded", "--only", "LoRA", "--only", "torch, padded to 128")
        self.assertEqual(len(data["seconds"]["ft, padded to 128, bf16"]), 2)
        self.assertAlmostEqual(data["seconds"]["ft, padded to 128, float"][0], 0.2)
        self.assertEqual(data["products"]["ft, padded to 128, bf16"], "cpu_onednn")
        self.assertEqual(data["failed"]["LoRA of rank 51, unpadded, float"], "failed: no such adapter")
        self.assertIn("no torch here", data["failed"]["torch, padded to 128, bf16"])
        self.assertIn("no torch here", page)
        # The faster of both libraries in float: 1e9 operations in 24 ms.
        self.assertAlmostEqual(data["product_flops"]["float"][0], 1e9 / 0.024, delta=1e6)

    def test_the_time_ends(self):
        data, page = self.run_it("--budget", "1e-9", "--only", "ft")
        self.assertIn("no time within", data["failed"]["ft, unpadded, float"])
        self.assertIn("no time within", page)

    def test_types(self):
        data, _ = self.run_it("--dtype", "bf16", "--only", "ft")
        self.assertTrue(all(title.endswith("bf16") for title in data["seconds"]))


class Grid(FolderCase):
    def test_variants_side_by_side(self):
        command = [sys.executable, "-B", str(BENCHMARKS / "grid.py"), "--program", self.script("cases", CASES), "--quick", "--rounds", "2"]
        command += ["--seconds", "0", "--threads", "2", "--peers", "no", "--output", str(self.folder / "out")]
        subprocess.run(command, check=True, capture_output=True, text=True)
        page = (self.folder / "out" / "grid.md").read_text()
        self.assertIn("| bf16, oneDNN | ms | 4.0 | 4.0 | 4.0 | 4.0 |", page)
        self.assertIn("| bf16, oneDNN | time over float, BLAS | 0.40 (0.40-0.40) |", page)
        self.assertIn("| both sides full | 20.0 | 2.00 (2.00-2.00) | 16.0 | 2.00 (2.00-2.00) | 8.0 | 2.00 (2.00-2.00) |", page)
        for link in re.findall(r"\]\(([^)#]+)", page):
            self.assertTrue((self.folder / "out" / link).exists(), link)
        own = (self.folder / "out" / "bf16-cpu_onednn" / "grid.md").read_text()
        self.assertIn("backend `cpu_onednn`, bf16", own)
        self.assertIn("(../grid.json)", own)
        # The chosen plan takes 8 ms, the other one 7: 1.14 times.
        targets = json.loads((self.folder / "out" / "grid_targets.json").read_text())["targets"]
        self.assertEqual([(t["section"], t["found"], t["met"]) for t in targets][-1], ("grid, bf16, oneDNN", "0.0 %", False))

    def test_a_grid_of_before(self):
        step = {"plan": "", "chosen": False, "wall": [1.0], "cpu": [1.0], "ratio": [1.0], "cpu_ratio": [1.0], "flops": 1, "bytes": 1}
        steps = [{**step, "name": n, "family": n} for n in ("dense, AdamW", "machine")]
        cell = {"in": 4, "out": 8, "tokens": 2, "share": 0.01, "rank": 2, "micro_batches": 1, "threads": 2}
        data = {"command": "c", "date": "d", "note": "", "load_before": 0, "load_after": 0, "sparsegrad": "0", "backend": "cpu_blas"}
        old = {key: value for key, value in MACHINE.items() if key not in ("instruction_set", "onednn")}
        data.update({"machine": old, "cells": [{"cell": cell, "entries": 1, "lora_rank": 1, "rounds": 1, "steps": steps}]})
        (self.folder / "grid.json").write_text(json.dumps(data))
        grid_page.write(self.folder)
        self.assertIn("backend `cpu_blas`, float", (self.folder / "grid.md").read_text())
        self.assertTrue((self.folder / "cells.md").exists())

    @unittest.skipUnless(importlib.util.find_spec("matplotlib"), "matplotlib is missing (scripts/setup.sh --python installs it)")
    def test_every_plot_names_the_machine(self):
        import grid_plots

        step = {"plan": "", "chosen": True, "wall": [1.0], "cpu": [1.0], "ratio": [1.0], "cpu_ratio": [1.0], "flops": 1, "bytes": 1}
        names = ("dense, AdamW", "width side 2, top-k", "LoRA of equal entries", "machine")
        steps = [{**step, "name": name, "family": name, "memory": {"weight": 2**20}} for name in names]
        usual = {"in": 4, "out": 8, "tokens": 2048, "share": 0.01, "rank": 64, "micro_batches": 1, "threads": 2}
        cells = [usual] + [{**usual, name: value} for name, value in (("tokens", 2), ("rank", 2), ("share", 0.1), ("micro_batches", 2))]
        record = {"entries": 1, "lora_rank": 1, "rounds": 1}
        data = {"date": "2026-11-30", "machine": MACHINE, "cells": [{**record, "cell": cell, "steps": steps} for cell in cells]}
        for cell in data["cells"]:
            cell["steps"] = [{**s, "family": s["family"].replace(" 2,", f" {cell['cell']['rank']},")} for s in steps]
        figures = []
        with unittest.mock.patch.object(grid_plots.plt, "close", figures.append):
            written = grid_plots.draw(grid_cells.Grid(data), self.folder, case_program.Variant("cpu_onednn", "bf16"))
        self.assertEqual(written, ["tokens.png", "rank.png", "share.png", "micro_batches.png", "roofline.png", "memory.png"])
        for name, figure in zip(written, figures):
            title = figure.get_suptitle()
            self.assertIn("Some Processor (family 6, model 143), 2 cores; bf16, oneDNN; 2026-11-30", title, name)
            figure.canvas.draw()
            for axes in figure.axes:
                self.assertFalse(figure._suptitle.get_window_extent().overlaps(axes.get_window_extent()), name)


class Parts(FolderCase):
    def test_page(self):
        command = [sys.executable, "-B", str(BENCHMARKS / "parts.py"), "--program", self.script("cases", CASES), "--rounds", "2", "--output", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        page = (self.folder / "parts.md").read_text()
        self.assertIn("| dW, dense product | 4 | 250 GFLOP/s | 3.2 | 312 GFLOP/s | 1.6 | 625 GFLOP/s | 0.80 (0.80-0.80) | 0.40 (0.40-0.40) |", page)
        self.assertIn("| top-k 9 -> 3, normal, one thread | 3 |", page)
        self.assertIn("| dW at a fixed support (SDDMM) | <= 0.06 | 0.250 | **missed** |", page)


class Peers(FolderCase):
    def test_both_types(self):
        row = {"title": "step: torch", "note": "", "ours": {"float-cpu_blas": [0.002, 0.004], "float-cpu_onednn": [0.001, 0.002], "bf16-cpu_onednn": [0.001, 0.001]}}
        row["theirs"] = {"float": [0.003, 0.004], "bf16": [0.004, 0.004]}
        only = {"title": "top-k: torch", "note": "", "ours": {"float-cpu_blas": [0.001]}, "theirs": {"float": [0.005]}}
        data = {"command": "c", "date": "d", "machine": MACHINE, "torch": "2", "threads": 2, "rounds": 2, "load_before": 0, "load_after": 0, "note": ""}
        data["variants"] = [{"backend": "cpu_blas", "dtype": "float"}, {"backend": "cpu_onednn", "dtype": "float"}, {"backend": "cpu_onednn", "dtype": "bf16"}]
        data.update({"missing": ["peft is not there"], "sections": [{"title": "s", "processors": 2, "rows": [row, only]}]})
        (self.folder / "peers.json").write_text(json.dumps(data))
        peers.write(self.folder)
        page = (self.folder / "peers.md").read_text()
        # Theirs over ours by the faster library, of the same round.
        self.assertIn("| step: torch | 3 | 1.5 | 3.5 | 2.50 (2.00-3.00) | 1 | 4 | 4.00 (4.00-4.00) |", page)
        self.assertIn("| top-k: torch | 1 |  | 5 | 5.00 |  |  |  |", page)
        self.assertIn("- peft is not there", page)

    def test_one_that_fails_leaves_the_others(self):
        def fails():
            raise RuntimeError("no such operator")

        missing = []
        row = peers.Row("step", [], {"float": lambda: None, "bf16": fails})
        row.round({}, missing)
        self.assertEqual(list(row.theirs_seconds), ["float"])
        self.assertEqual(missing, ["step, bf16: failed, RuntimeError: no such operator"])


class Report(FolderCase):
    def build(self, glue=GLUE):
        programs = self.folder / "build" / "benchmarks"
        programs.mkdir(parents=True)
        pathlib.Path(self.script("cases", CASES)).rename(programs / "benchmark_cases")
        bench = "import sys, json\nprint('one line') if sys.argv[1] == 'report' else json.dump({}, open(sys.argv[-1], 'w'))\n"
        pathlib.Path(self.script("bench", bench)).rename(self.folder / "build" / "sparsegrad-bench")
        words = [sys.executable, "-B", str(BENCHMARKS / "report.py"), "--build", str(self.folder / "build"), "--glue", self.script("glue", glue)]
        return [*words, "--quick", "--size", "small", "--output", str(self.folder / "out"), "--logs", str(self.folder)]

    def environment(self):
        return {**os.environ, "PYTHONPATH": self.without_torch(), "OMP_NUM_THREADS": "2"}

    def test_everything_and_the_page_again(self):
        command = self.build()
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment())
        self.assertEqual(done.returncode, 0, done.stderr)
        page = (self.folder / "out.md").read_text()
        self.assertIn("OMP_NUM_THREADS=2", page)
        self.assertIn("one line", page)
        self.assertIn("| bert | 0 | left out: it needs --model |", page)
        for name in ("bert_small.md", "parts.md", "grid.md", "cost_model.json"):
            self.assertIn(f"(out/{name})", page)
        self.assertIn("| parts, float, BLAS | dW at a fixed support (SDDMM) | <= 0.06 | 0.250 | **missed** |", page)
        (self.folder / "out.md").unlink()
        subprocess.run([*command[:3], "--page-only", "--output", str(self.folder / "out")], check=True, capture_output=True)
        self.assertEqual((self.folder / "out.md").read_text(), page)

    def test_a_part_that_fails_is_said_and_the_others_run(self):
        command = self.build()
        (self.folder / "build" / "sparsegrad-bench").write_text("#!/bin/sh\necho this goes wrong >&2; exit 3\n")
        done = subprocess.run([*command, "--only", "products", "--only", "parts"], capture_output=True, text=True, env=self.environment())
        self.assertEqual(done.returncode, 1)
        page = (self.folder / "out.md").read_text()
        self.assertIn("failed with status 3: this goes wrong", page)
        self.assertIn("(out/parts.md)", page)

    def test_what_was_measured_is_kept_when_it_is_stopped(self):
        command = self.build(glue="import time\ntime.sleep(60)\n")
        process = subprocess.Popen([*command, "--only", "products", "--only", "bert_base"], stderr=subprocess.PIPE, text=True, env=self.environment())
        for line in process.stderr:
            if line.startswith("== bert_base"):
                break
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130)
        page = (self.folder / "out.md").read_text()
        self.assertIn("one line", page)
        self.assertIn("stopped by hand", page)

    def test_a_part_that_takes_too_long(self):
        ended, _ = report.run(["sleep", "30"], 0.2, self.folder / "log")
        self.assertIn("stopped after 0.2 s", ended)
        ended, _ = report.run([str(self.folder / "nothing")], 1, self.folder / "log")
        self.assertIn("failed", ended)


class Torch(FolderCase):
    def test_a_worker_without_torch_says_so(self):
        command = [sys.executable, "-B", str(BENCHMARKS / "torch_step.py"), "--model", "m", "--threads", "1"]
        done = subprocess.run(command, input="", capture_output=True, text=True, env={**os.environ, "PYTHONPATH": self.without_torch()})
        self.assertIn("no torch here", json.loads(done.stdout)["failed"])


class Variants(unittest.TestCase):
    def test_no_folder_of_this_machine_in_a_page(self):
        text = case_program.without_folders("cannot read /tmp/x1/run.json: a/b, ft 32 x 128 / torch, ~/m/vocab.txt 3/4")
        self.assertEqual(text, "cannot read run.json: a/b, ft 32 x 128 / torch, vocab.txt 3/4")

    def test_usual(self):
        built = [case_program.Variant.parse(text) for text in ("cpu_blas:float", "cpu_blas:bf16", "cpu:float")]
        self.assertEqual([v.title for v in case_program.usual_variants(built)], ["float, BLAS", "bf16, BLAS"])
        built += [case_program.Variant.parse(text) for text in ("cpu_onednn:float", "cpu_onednn:bf16")]
        self.assertEqual([v.title for v in case_program.usual_variants(built)], ["float, BLAS", "float, oneDNN", "bf16, oneDNN"])

    def test_a_processor_has_family_and_model(self):
        text = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel\t\t: 3\n"
        self.assertEqual(case_program.processor(text), "AMD EPYC (family 26, model 2)")
        self.assertEqual(case_program.processor("processor\t: 0\n"), "unknown processor")


if __name__ == "__main__":
    unittest.main()
