"""benchmarks/gpu_step.py and random_bert.py, without a GPU."""

import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_step
import random_bert


class FolderCase(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)


def tensors_of(path):
    """{name: its floats} of a safetensors file."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    found = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        begin, end = entry["data_offsets"]
        assert end - begin == 4 * math.prod(entry["shape"])
        found[name] = struct.unpack_from(f"<{(end - begin) // 4}f", data, 8 + size + begin)
    return found


class RandomBert(FolderCase):
    def test_model(self):
        random_bert.write(self.folder, "small")
        found = tensors_of(self.folder / "model.safetensors")
        layers, width, _, vocabulary = random_bert.SIZES["small"]
        # Embeddings, LayerNorms and linear layers of a BERT, counted by hand.
        block = 4 * (width * width + width) + 8 * width * width + 5 * width + 4 * width
        embeddings = (vocabulary + random_bert.POSITIONS + 2) * width + 2 * width
        self.assertEqual(sum(map(len, found.values())), embeddings + layers * block + width * width + width)
        weights = found["bert.encoder.layer.1.intermediate.dense.weight"]
        self.assertTrue(all(1 / 64 <= abs(w) < 1 / 32 for w in weights))
        self.assertLess(abs(sum(weights)) / len(weights), 0.001)
        self.assertEqual(set(found["bert.embeddings.LayerNorm.weight"]), {1.0})
        self.assertEqual(set(found["bert.pooler.dense.bias"]), {0.0})
        vocab = (self.folder / "vocab.txt").read_text().splitlines()
        self.assertEqual((len(vocab), len(set(vocab))), (vocabulary, vocabulary))
        self.assertEqual(json.loads((self.folder / "config.json").read_text())["vocab_size"], vocabulary)


class Page(unittest.TestCase):
    def data(self, **changed):
        seconds = {"ft, bf16": [0.006, 0.008], "sparse, one side of rank 64, bf16": [0.003, 0.008]}
        data = {"command": "c", "date": "d", "gpu": "NVIDIA H200", "size": "base", "rounds": 2, "steps": 30, "peak_tflops": 989, "failed": {}}
        return {**data, "operations": gpu_step.operations("base"), "seconds": seconds, **changed}

    def test_operations_of_bert_base(self):
        linear = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
        attention = 12 * 2 * 2 * 32 * 12 * 128 * 128 * 64  # layers, scores and sums, 2 a product, of 12 heads of 64
        self.assertEqual(gpu_step.operations("base"), 3 * (2 * 4096 * linear + attention))

    def test_ratios_are_those_of_a_round(self):
        page = gpu_step.page(self.data())
        # The median of 0.5 and 1.0, not the ratio of the medians.
        self.assertIn("| sparse, one side of rank 64, bf16 / ft, bf16 | 0.75 | 0.50 | 1.00 | <= 1.00 | met |", page)

    def test_share_of_the_peak(self):
        self.assertIn("31 % of the peak; wanted: 35 %, **missed**", gpu_step.page(self.data()))
        faster = {"ft, bf16": [0.006]}
        self.assertIn("36 % of the peak; wanted: 35 %, met", gpu_step.page(self.data(seconds=faster)))
        self.assertNotIn("wanted: 35 %", gpu_step.page(self.data(peak_tflops=None)))
        self.assertNotIn("wanted: 35 %", gpu_step.page(self.data(size="large")))

    def test_peaks(self):
        self.assertEqual(gpu_step.peak_of("NVIDIA H100 PCIe, 550.1, 81559 MiB"), 756)
        self.assertEqual(gpu_step.peak_of("NVIDIA H100 80GB HBM3"), 989)
        self.assertIsNone(gpu_step.peak_of("another"))

    def test_a_failed_case(self):
        self.assertIn("**Failed:** ft, float: exit status 1.", gpu_step.page(self.data(failed={"ft, float": "exit status 1"})))


PROGRAM = """import json, os, sys
folder = sys.argv[sys.argv.index("--output") + 1]
if "--tf32" in sys.argv: sys.exit(3)
os.makedirs(folder, exist_ok=True)
steps = int(sys.argv[sys.argv.index("--max-steps") + 1])
slow = "bf16" not in sys.argv
log = {"steps": [{"seconds": (0.2 if slow else 0.1) * (i + 1) + (5 if i > 2 else 0)} for i in range(steps)]}
json.dump(log, open(os.path.join(folder, "run.json"), "w"))
"""


class Run(FolderCase):
    def run_it(self, *words):
        program = self.folder / "program"
        program.write_text(f"#!{sys.executable}\n" + PROGRAM)
        program.chmod(0o755)
        command = [sys.executable, str(BENCHMARKS / "gpu_step.py"), "--program", str(program), "--size", "small", *words]
        return subprocess.run(command, capture_output=True, text=True)

    def test_page_and_data(self):
        done = self.run_it("--output", str(self.folder / "out"), "--only", "ft, bf16", "--only", "ft, float", "--steps", "8")
        self.assertEqual(done.returncode, 0, done.stderr)
        data = json.loads((self.folder / "out" / "gpu_step.json").read_text())
        # What happens before the first five steps counts for nothing.
        self.assertAlmostEqual(data["seconds"]["ft, bf16"][1], 0.1)
        self.assertIn("| ft, bf16 / ft, float | 0.50 | 0.50 | 0.50 |", (self.folder / "out" / "gpu_step.md").read_text())

    def test_one_case_fails_and_the_others_go_on(self):
        done = self.run_it("--only", "ft", "--steps", "8")
        self.assertEqual(done.returncode, 1)
        self.assertIn("**Failed:** ft, TF32: exit status 3.", done.stdout)
        self.assertIn("| ft, float | 200.00 |", done.stdout)

    def test_refusals(self):
        self.assertIn("no case's title begins with", self.run_it("--only", "nothing").stderr)
        self.assertIn("expected at least", self.run_it("--steps", "3").stderr)


if __name__ == "__main__":
    unittest.main()
