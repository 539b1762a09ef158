"""llm_step.py with a stand-in for the program and without the others: what it measures, and its page."""

import json
import os
import subprocess
import sys
import unittest

from processor_fakes import BENCHMARKS, CASES, MACHINE, FolderCase

import case_program
import llm_step

# sparsegrad-llm: 100 tokens a step, of 1 s in float and 0.5 s in bf16, the first one 3 s longer; with a quantised base no sparse.
LLM = """
import json, os, sys
def option(name): return sys.argv[sys.argv.index(name) + 1]
if sys.argv[1] == "export":
    if "--format" in sys.argv: sys.exit("no such format" if option("--save-dtype") == "float" else "no such type: " + option("--save-dtype"))
    os.makedirs(option("--output"))
    json.dump({"hidden_size": 576, "intermediate_size": 1536}, open(os.path.join(option("--output"), "config.json"), "w"))
    sys.exit()
factor = 0.5 if option("--dtype") == "bf16" else 1
if sys.argv[1] == "generate":
    print("a story")
    print(f"(9 tokens read in 0.01 s; {option('--max-new-tokens')} written, {40 / factor:.1f} a second)", file=sys.stderr)
    sys.exit()
kind = option("--run-type")
if kind == "sparse" and "file" in sys.argv: sys.exit("not beside these blocks")
os.makedirs(option("--output"), exist_ok=True)
steps = range(int(option("--max-steps")))
log = {"steps": [{"seconds": 3 + factor * (i + 1), "tokens": 100, "loss": 1.5, "kept_entries": 2**20} for i in steps]}
log["memory"] = {"process_peak_bytes": (100 if kind == "lora" else 101) * 2**20}
log["trained"] = {"dense_parameters": 0, "sparse_parameters": 9, "sparse_entries_a_step": 9}
json.dump(log, open(os.path.join(option("--output"), "run.json"), "w"))
"""


class LlmStep(FolderCase):
    def run_it(self, *words, status=0):
        out, model = self.folder / "out", self.folder / "m.gguf"
        model.write_text("")
        command = [sys.executable, "-B", str(BENCHMARKS / "llm_step.py"), "--program", self.script("llm", LLM), "--model", str(model), "--data", str(model)]
        command += ["--cases-program", self.script("cases", CASES), "--output", str(out), *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": self.without_torch()})
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads((out / "llm.json").read_text()), (out / "llm.md").read_text()

    def test_what_is_there_is_measured_and_the_rest_is_said(self):
        data, page = self.run_it()
        self.assertEqual(data["rank"], 46)  # 64 * 1536 / (576 + 1536), and no more
        # The first step does not count.
        self.assertEqual([round(1 / s) for s in data["seconds"]["LoRA, float"]], [100, 100])
        self.assertIn("| LoRA, bf16 | 200 (200-200) | 0.50 | 100 | 1,048,576 | 1.5000 |", page)
        self.assertIn("| generation, float | 40 (40-40) |  |  |  |  |", page)
        self.assertIn("| generation, quantised base, float | 40 (40-40) |  |  |  |  |", page)
        self.assertEqual(data["failed"]["sparse (best), quantised base, float"], "failed: not beside these blocks")
        self.assertIn("no torch here", data["failed"]["peft's LoRA, bf16"])
        self.assertEqual(data["failed"]["llama.cpp's generation, float"], "failed: no such format")
        self.assertEqual(data["failed"]["llama.cpp's generation, fp16"], "failed: no such type: fp16")
        # Of the file itself nothing is exported: llama.cpp is asked.
        self.assertNotIn("no such", data["failed"]["llama.cpp's generation, the file's type"])
        self.assertIn("tokens a second over peft's | >= 2.0 |  | not measured: peft's LoRA, float:", page)

    def test_llama_cpp_stands_beside_both_types_of_the_program(self):
        seconds = {"generation, float": [0.02], "generation, bf16": [0.01], "llama.cpp's generation, q8_0": [0.004], "llama.cpp's generation, fp16": [0.008]}
        found = self.folder / "llm.json"
        data, _ = self.run_it("--budget", "1e-9")
        found.write_text(json.dumps({**data, "seconds": seconds}))
        subprocess.run([sys.executable, "-B", str(BENCHMARKS / "llm_step.py"), "--page-only", "--output", str(self.folder)], check=True)
        page = (self.folder / "llm.md").read_text()
        self.assertIn("| generation / llama.cpp's generation, fp16 | 0.40 | 0.80 |", page)
        self.assertIn("| generation, bf16, tokens a second over llama.cpp's generation in q8_0 | >= 0.5 | 0.40 | **missed** |", page)

    def test_the_time_ends(self):
        data, page = self.run_it("--budget", "1e-9")
        self.assertIn("no time within", data["failed"]["LoRA, bf16"])
        self.assertIn("no time within", page)


class Targets(unittest.TestCase):
    def found(self, **changed):
        seconds = {"LoRA, bf16": [0.001, 0.001], "peft's LoRA, bf16": [0.003, 0.004], "sparse (best), bf16": [0.0005, 0.002]}
        peaks = {"LoRA, bf16": 100 * 2**20, "sparse (best), bf16": 104 * 2**20, "peft's LoRA, bf16": 208 * 2**20}
        data = {"machine": MACHINE, "seconds": seconds, "peak_bytes": peaks, "found": {"sparse (best), bf16": {"trained": 2**20}}, "failed": {}}
        return {t["what"]: (t["found"], case_program.verdict(t["met"], t["why"])) for t in llm_step.targets({**data, **changed})}

    def test_rates_and_peaks(self):
        found = self.found()
        self.assertEqual(found["LoRA in bf16, tokens a second over peft's"], ("3.50 (3.00-4.00)", "met"))
        self.assertEqual(found["one side of rank 64 in bf16, tokens a second over LoRA's of equal entries"], ("1.25 (0.50-2.00)", "met"))
        # 4 MiB of update beside 100.
        self.assertEqual(found["one side of rank 64 in bf16, peak memory over LoRA's, the update apart"], ("1.04", "met"))
        self.assertEqual(found["LoRA in bf16, peak memory over peft's LoRA's"], ("0.48", "met"))
        self.assertEqual(found["sparse (best) in bf16, peak memory over peft's LoRA's"], ("0.50", "met"))
        self.assertEqual(found["LoRA in float, tokens a second over peft's"], ("", "not measured: LoRA, float: not run"))
        found = self.found(found={"sparse (best), bf16": {"trained": 2**19}})
        self.assertEqual(found["one side of rank 64 in bf16, peak memory over LoRA's, the update apart"], ("1.04", "**missed**"))


if __name__ == "__main__":
    unittest.main()
