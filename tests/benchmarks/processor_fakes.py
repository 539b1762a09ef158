"""Stand-ins for the programs that benchmarks/*.py run, with known times."""

import pathlib
import sys
import tempfile
import unittest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

MACHINE = {
    "processor": "Some Processor (family 6, model 143)",
    "instruction_set": "amx-bf16",
    "cores": 2,
    "memory": "16 kB",
    "compiler": "g++ 12",
    "blas": "a BLAS",
    "onednn": "oneDNN 3.0.0",
    "eigen": "Eigen 3.4.0",
    "slug": "some-processor",
}

# benchmark_cases: bf16 takes half of float's time; oneDNN 0.8 of the BLAS's; the dense step 10 ms.
CASES = (
    f"machine = {MACHINE!r}\n"
    + """
import json, sys
variants = [("cpu_blas", "float"), ("cpu_onednn", "float"), ("cpu_onednn", "bf16")]
if "--variants" in sys.argv:
    print(json.dumps({"machine": machine, "sparsegrad": "1", "variants": [{"backend": b, "dtype": d} for b, d in variants]}))
    sys.exit()
option = dict(zip(sys.argv[1::2], sys.argv[2::2]))
factor = (0.8 if option["--backend"] == "cpu_onednn" else 1) * (0.5 if option["--dtype"] == "bf16" else 1)
rank = option.get("--rank", "64")
cases = [("dense, AdamW", "dense, AdamW", "", False, 10), ("one; a", f"width side {rank}, top-k", "a", True, 8), ("one; b", f"width side {rank}, top-k", "b", False, 7)]
cases += [("both sides full", "both sides full", "", False, 20), ("LoRA of equal entries", "LoRA of equal entries", "", False, 9)]
cases += [("product 2048 x 2048 x 2048", "machine", "", False, 5), ("memory walk", "machine", "", False, 5)]
cases += [("product 4096 x 4096 x 4096", "part", "", False, 30), ("dW, dense product", "part", "", False, 4)]
if option["--dtype"] == "float":
    cases += [("top-k 9 -> 3, normal, one thread", "part", "", False, 3), ("dW at a fixed support (SDDMM)", "part", "", False, 1)]
listed = [{"name": n, "family": f, "plan": p, "chosen": c} for n, f, p, c, _ in cases]
listed[-1].update({"most_ratio": 0.06, "over": "dW, dense product"})
print(json.dumps({"machine": machine, "sparsegrad": "1", "backend": option["--backend"], "dtype": option["--dtype"], "lora_rank": 6, "cases": listed}), flush=True)
times = {n: t * 1e-3 * factor for n, _, _, _, t in cases}
for line in sys.stdin:
    command, _, name = line.strip().partition(" ")
    if command == "drop":
        print(json.dumps({"dropped": True}), flush=True)
        continue
    print(json.dumps({"wall": times[name], "cpu": 2 * times[name], "flops": 1e9, "bytes": 1e7, "memory": {"weight": 2**20}}), flush=True)
"""
)

# sparsegrad-glue: 0.2 s a step in float, 0.08 in bf16; LoRA fails; frozen-mlp does not end.
GLUE = """
import json, os, sys, time
option = dict(zip(sys.argv[2::2], sys.argv[3::2]))
kind = sys.argv[sys.argv.index("--run-type") + 1]
dtype = sys.argv[sys.argv.index("--dtype") + 1]
if kind == "lora": sys.exit("no such adapter")
if kind == "frozen-mlp": time.sleep(60)
folder = sys.argv[sys.argv.index("--output") + 1]
os.makedirs(folder, exist_ok=True)
steps = int(sys.argv[sys.argv.index("--max-steps") + 1])
step = (0.08 if dtype == "bf16" else 0.2) * (0.7 if kind == "sparse" else 1)
log = {"steps": [{"seconds": step * (i + 1)} for i in range(steps)], "memory": {"process_peak_bytes": 2**20}}
log["versions"] = {"products": {"float": "cpu_blas", "low_precision": "cpu_onednn"}}
json.dump(log, open(os.path.join(folder, "run.json"), "w"))
"""


class FolderCase(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(f"#!{sys.executable}\n" + text)
        path.chmod(0o755)
        return str(path)

    def without_torch(self):
        """PYTHONPATH of a folder in which torch cannot be imported."""
        hidden = self.folder / "hidden"
        hidden.mkdir(exist_ok=True)
        (hidden / "torch.py").write_text("raise ImportError('no torch here')\n")
        return str(hidden)
