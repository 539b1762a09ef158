#!/usr/bin/env python3
"""The whole fine-tuning step of a BERT, in float and bf16: sparsegrad-glue against torch + transformers, run types against each other.

    bert_step.py --program P --model DIR [--data DIR] [--rounds 3] [--steps 12] [--quick] [--budget SECONDS] ...
    bert_step.py --program P --size base [--model DIR] [--data DIR] ...
    bert_step.py --page-only --output FOLDER [--size base]

Each round runs every case once, in turn, on the same CoLA sentences in the same order (batch 32, dropout 0.1, AdamW); a case is
compared with another of its own round. A step is forward, backward and optimizer; the first --warm of a case are left out. With
--size the model has random weights (random_bert.py), and the vocabulary of --model where one is given; without --data the
program takes its built-in sentences and torch random words, which compare where both are filled up to 128 tokens.
A refresh of the bases every 100 steps is an option: the cases of 104 steps have one, with the gradients collected for it, in
their mean. Memory is the program's own peak while training (run.json), phase 1 apart.
torch: torch_step.py, which says what its cases are; bf16 is autocast. Needs torch, transformers and, for LoRA, peft; what is
missing, or fails, is said in the page, and the rest is measured.
The products' own rate: benchmark_cases, 4096 x 4096 x 4096, in every round.

Writes FOLDER/bert.json (bert_base.json) after every case and FOLDER/bert.md at the end, or prints the page.
"""

import argparse
import datetime
import json
import os
import pathlib
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import random_bert
from case_program import CaseProgram, Variant, described, judged, ratio_rows, spread, table, usual_variants, verdict, without_folders, wrapped, write_aside

HERE = pathlib.Path(__file__).resolve().parent
PERIOD = 104  # steps of a case that has a refresh in it
BATCH = 32
RATE = 1e-4
LORA_RANK = 51  # as many entries as preset best steps
PRODUCT = "product 4096 x 4096 x 4096"
TYPES = ["float", "bf16"]

ONE_SIDED = ["--run-type", "sparse", "--preset", "best"]
PAPER = ["--run-type", "sparse", "--preset", "paper"]
PHASE1 = ["--phase1-steps", "3"]  # which bases there are changes no time
# Random sides of the same size need no gradients.
RANDOM_ONE_SIDE = ["--width-side", "random:64"]
RANDOM_SIDES = ["--width-side", "random", "--other-side", "random"]
ACCUMULATED = ["--accumulation", "8"]
LORA = ["--run-type", "lora", "--lora-rank", str(LORA_RANK)]
LORA_TITLE = f"LoRA of rank {LORA_RANK}"
PADDINGS = {"max_length": "padded to 128", "unpadded": "unpadded", "longest": "padded to the longest"}


class Case:
    """`options` of the program, or the case of torch_step.py as a dict. `steps`: None for those of the command line."""

    def __init__(self, what, dtype, options, padding, steps=None, ending=""):
        self.dtype, self.options, self.padding, self.steps = dtype, options, padding, steps
        self.title = f"{what}, {PADDINGS[padding]}{ending}, {dtype}"
        self.of_torch = isinstance(options, dict)


def cases_of(random_weights, quick):
    """Those that targets need first."""
    cases = []

    def program(what, options, padding, types=TYPES, **more):
        cases.extend(Case(what, dtype, options, padding, **more) for dtype in types)

    def torch(what, options, padding, types=TYPES):
        cases.extend(Case(what, dtype, options, padding) for dtype in types)

    one_sided = [*ONE_SIDED, *(RANDOM_ONE_SIDE if random_weights else PHASE1)]
    paper = [*PAPER, *(RANDOM_SIDES if random_weights else PHASE1)]
    program("ft", ["--run-type", "ft"], "max_length")
    torch("torch", {"what": "ft"}, "max_length")
    program("ft", ["--run-type", "ft"], "unpadded")
    torch("torch", {"what": "ft"}, "longest")
    program("sparse (best)", one_sided, "max_length")
    program(LORA_TITLE, LORA, "max_length")
    program("sparse (paper)", paper, "max_length")
    program("ft by BLAS", ["--run-type", "ft", "--products", "blas"], "max_length", ["float"])
    program("ft by BLAS", ["--run-type", "ft", "--products", "blas"], "unpadded", ["float"])
    torch("peft's LoRA", {"what": "lora", "rank": LORA_RANK}, "max_length")
    program("sparse (best)", one_sided, "unpadded")
    program(LORA_TITLE, LORA, "unpadded")
    program("sparse (paper)", paper, "unpadded")
    torch("torch.compile", {"what": "compiled"}, "max_length")
    if quick:
        return cases
    torch("IPEX", {"what": "ipex"}, "max_length")
    if random_weights:
        return cases
    torch("the method in torch", {"what": "method"}, "max_length", ["float"])
    program("LoRA of rank 7", ["--run-type", "lora"], "unpadded")
    program("frozen MLP", ["--run-type", "frozen-mlp"], "unpadded")
    mean = f", mean of {PERIOD} steps"
    program("ft", ["--run-type", "ft"], "unpadded", steps=PERIOD, ending=mean)
    program("sparse (best) with a refresh", [*one_sided, "--refresh-every", "100"], "unpadded", steps=PERIOD, ending=mean)
    for what, options in (("ft", ["--run-type", "ft"]), ("sparse (paper)", paper), ("sparse (best)", one_sided)):
        program(what, [*options, *ACCUMULATED], "unpadded", ending=", 8 micro-batches")
    return cases


def compared():
    """(first, second) whose times are compared, without the type that both have"""
    full, own, longest = (PADDINGS[p] for p in ("max_length", "unpadded", "longest"))
    pairs = [
        (f"ft, {full}", f"torch, {full}"),
        (f"ft, {full}", f"torch.compile, {full}"),
        (f"ft, {full}", f"IPEX, {full}"),
        (f"ft, {own}", f"torch, {longest}"),
        (f"ft, {full}", f"ft by BLAS, {full}"),
        (f"ft, {own}", f"ft by BLAS, {own}"),
        (f"sparse (best), {full}", f"ft, {full}"),
        (f"sparse (best), {full}", f"{LORA_TITLE}, {full}"),
        (f"sparse (best), {full}", f"peft's LoRA, {full}"),
        (f"{LORA_TITLE}, {full}", f"peft's LoRA, {full}"),
        (f"sparse (paper), {full}", f"ft, {full}"),
        (f"sparse (paper), {full}", f"the method in torch, {full}"),
        (f"the method in torch, {full}", f"torch, {full}"),
        (f"sparse (best), {own}", f"ft, {own}"),
        (f"sparse (best) with a refresh, {own}, mean of {PERIOD} steps", f"ft, {own}, mean of {PERIOD} steps"),
        (f"sparse (paper), {own}", f"ft, {own}"),
        (f"LoRA of rank 7, {own}", f"ft, {own}"),
        (f"{LORA_TITLE}, {own}", f"ft, {own}"),
        (f"frozen MLP, {own}", f"ft, {own}"),
        (f"sparse (best), {own}, 8 micro-batches", f"ft, {own}, 8 micro-batches"),
        (f"sparse (paper), {own}, 8 micro-batches", f"ft, {own}, 8 micro-batches"),
    ]
    return pairs

# Peaks of training, the first over the second, and the ratio that is wanted.
MEMORY_PAIRS = [
    ("sparse (best), unpadded", f"{LORA_TITLE}, unpadded", 1.0),
    ("sparse (paper), unpadded", "ft, unpadded", 1.0),
    ("sparse (paper), padded to 128", "ft, padded to 128", 1.0),
]


class Target:
    """`least`: wanted of the second time over the first; `most`: of the first over the second. `on`: the processors that it is
    for, "amx", "no 16 bits" or "" for all."""

    def __init__(self, what, first, second, least=None, most=None, on="", sizes=("base",)):
        self.what, self.first, self.second, self.least, self.most, self.on, self.sizes = what, first, second, least, most, on, sizes


BOTH = ("base", "")
TARGETS = [
    Target("ft 32 x 128 in bf16, over torch with bf16 autocast", "ft, padded to 128, bf16", "torch, padded to 128, bf16", least=2, on="amx"),
    Target("ft 32 x 128 in bf16, over our own float", "ft, padded to 128, bf16", "ft, padded to 128, float", least=5, on="amx"),
    Target("ft on CoLA unpadded in bf16, over torch with bf16 autocast padded to the longest", "ft, unpadded, bf16", "torch, padded to the longest, bf16", least=3, on="amx"),
    Target("one side of rank 64 in bf16, time over ft's", "sparse (best), padded to 128, bf16", "ft, padded to 128, bf16", most=0.75, on="amx"),
    Target("one side of rank 64 in bf16, time over LoRA's of equal entries", "sparse (best), padded to 128, bf16", f"{LORA_TITLE}, padded to 128, bf16", most=1, on="amx"),
    Target("the paper's setting in bf16 at 4096 tokens, time over ft's", "sparse (paper), padded to 128, bf16", "ft, padded to 128, bf16", most=1.3, on="amx"),
    Target("ft 32 x 128 in float, over torch", "ft, padded to 128, float", "torch, padded to 128, float", least=1.2, sizes=BOTH),
    Target("ft 32 x 128 in float, time over that with BLAS products, as before oneDNN", "ft, padded to 128, float", "ft by BLAS, padded to 128, float", most=1.05, on="no 16 bits", sizes=BOTH),
    Target("ft on CoLA unpadded in float, time over that with BLAS products, as before oneDNN", "ft, unpadded, float", "ft by BLAS, unpadded, float", most=1.05, on="no 16 bits", sizes=BOTH),
    Target("ft on CoLA unpadded in float, over torch padded to the longest", "ft, unpadded, float", "torch, padded to the longest, float", least=2, sizes=("",)),
    Target("the paper's setting in float at 4096 tokens, time over ft's", "sparse (paper), padded to 128, float", "ft, padded to 128, float", most=1 / 0.75, sizes=("",)),
    Target("the paper's setting in float, over the reference's method in torch", "sparse (paper), padded to 128, float", "the method in torch, padded to 128, float", least=2.5, sizes=("",)),
    Target("one side of rank 64 on CoLA unpadded in float, time over ft's", "sparse (best), unpadded, float", "ft, unpadded, float", most=1 / 1.1, sizes=("",)),
]
WANTED_SHARE = 0.5


def why_not(on, instruction_set):
    """Why a target says nothing about this processor; empty where it does."""
    if on == "amx" and not instruction_set.startswith("amx"):
        return "this processor has no AMX"
    if on == "no 16 bits" and instruction_set.endswith("bf16"):
        return "this processor multiplies bf16"
    return ""


def operations(size, data):
    """Of a dense step of 32 x 128 tokens, by gpu_step.py's count."""
    layers, width, _, _ = random_bert.SIZES[size] if size else data["extents"]
    entries = layers * 12 * width * width
    return 6 * BATCH * 128 * entries + 3 * layers * BATCH * 4 * 128 * 128 * width


def share_of_product(data, dtype):
    """Of a dense step's rate in that of a large product of the same rounds; None without both."""
    times, products = data["seconds"].get(f"ft, padded to 128, {dtype}"), data["product_flops"].get(dtype)
    if not times or not products:
        return None
    return [operations(data["size"], data) / seconds / rate for seconds, rate in zip(times, products)]


def ratios_of(data, first, second):
    """Of the rounds that have both."""
    return [x / y for x, y in zip(data["seconds"].get(first, []), data["seconds"].get(second, []))]


def absent(data, *titles):
    """Why the first of the cases that has no times has none."""
    for title in titles:
        if not data["seconds"].get(title):
            return f"{title}: {data['failed'].get(title, 'not run')}"
    return ""


def targets(data):
    """Rows for the page of the processor; `met` is None where `why` says why nothing can be said."""
    section = f"BERT{'-' + data['size'] if data['size'] else ', ' + data['model']}, step"
    isa = data["machine"]["instruction_set"]
    rows = []

    def add(what, wanted, values, met, on, missing):
        why = why_not(on, isa) or ("" if values else missing)
        met = None if why else met(statistics.median(values))
        rows.append({"section": section, "what": what, "wanted": wanted, "found": spread(values) if values else "", "met": met, "why": why})

    if data["size"] == "base":
        shares = share_of_product(data, "bf16")
        what = "ft 32 x 128 in bf16, rate over that of a large bf16 product"
        add(what, f">= {WANTED_SHARE:.2f}", shares, lambda found: found >= WANTED_SHARE, "amx", absent(data, "ft, padded to 128, bf16") or "no product")
    for t in TARGETS:
        if data["size"] not in t.sizes:
            continue
        missing = absent(data, t.first, t.second)
        if t.least:
            add(t.what, f">= {t.least:.2f} times", ratios_of(data, t.second, t.first), lambda found: found >= t.least, t.on, missing)
        else:
            add(t.what, f"<= {t.most:.2f}", ratios_of(data, t.first, t.second), lambda found: found <= t.most, t.on, missing)
    if not data["size"]:
        for what, ratio, wanted in memory_ratios(data):
            if wanted is not None:
                rows.append({"section": f"{section}, peak memory", "what": what, "wanted": f"<= {wanted:.2f}", "found": f"{ratio:.3f}", "met": ratio <= wanted, "why": ""})
    return rows


def memory_ratios(data):
    peaks = data["peak_bytes"]
    for dtype in TYPES:
        for first, second, wanted in MEMORY_PAIRS:
            first, second = f"{first}, {dtype}", f"{second}, {dtype}"
            if first in peaks and second in peaks:
                # A thousandth is what two runs of one case differ by.
                yield f"{first} / {second}", round(peaks[first] / peaks[second], 3), wanted if dtype == "float" else None


class Failed(Exception):
    """A case that gave no time, and why."""


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return without_folders(lines[-1].strip())[:200] if lines else "no message"


def program_run(a, case, folder):
    """(a step's seconds, bytes at the peak, the libraries that multiplied)"""
    steps = case.steps or a.steps
    command = [a.program, "train", "--task", "cola", "--model", a.model_folder, "--output", folder, *case.options, "--dtype", case.dtype]
    if "--products" not in case.options:
        command += ["--products", a.products]
    if a.data:
        command += ["--data", a.data]
    command += ["--padding", case.padding, "--max-length", "128", "--batch-size", str(BATCH)]
    command += ["--learning-rate", str(RATE), "--no-shuffle", "--dropout", "0.1", "--log-every", "1", "--no-save", "--overwrite", "--quiet"]
    command += ["--max-steps", str(steps), "--dev-limit", "32", "--threads", str(a.threads)]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=a.case_seconds)
    except subprocess.CalledProcessError as error:
        raise Failed(f"failed: {last_line(error.stderr)}")
    except subprocess.TimeoutExpired:
        raise Failed(f"stopped after {a.case_seconds:g} s")
    log = json.loads((pathlib.Path(folder) / "run.json").read_text())
    # The log has the training time up to each step.
    seconds = [record["seconds"] for record in log["steps"]][a.warm - 1 :]
    peak, products = log["memory"]["process_peak_bytes"], log["versions"].get("products")
    if case.steps:
        return (seconds[-1] - seconds[0]) / (len(seconds) - 1), peak, products
    return statistics.median(y - x for x, y in zip(seconds, seconds[1:])), peak, products


class Torch:
    """torch_step.py, begun anew where a case stops it."""

    def __init__(self, a):
        self.a, self.process = a, None
        self.versions = self.begin().get("versions")

    def begin(self):
        a = self.a
        command = [sys.executable, "-B", str(HERE / "torch_step.py"), "--model", a.model_folder, "--threads", str(a.threads), "--batch", str(BATCH)]
        if a.data:
            command += ["--data", a.data]
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(pathlib.Path(a.scratch) / "inductor"), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        found = self.answer(120)
        if "failed" in found:
            self.why = found["failed"]
        return found

    def answer(self, seconds):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        ended = self.process.poll()
        self.end()
        return {"failed": f"ended with status {ended}" if ended is not None else f"stopped after {seconds:g} s"}

    def seconds(self, case):
        if not self.versions:
            raise Failed(f"left out: {last_line(self.why)}")
        if not self.a.data and case.padding == "longest":
            raise Failed("left out: needs --data")
        if self.process is None:
            self.begin()
        asked = {**case.options, "padding": case.padding, "dtype": case.dtype, "steps": self.a.steps}
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer's absence says it
        found = self.answer(self.a.case_seconds)
        if "failed" in found:
            raise Failed(f"failed: {last_line(found['failed'])}")
        return statistics.median(found["seconds"][self.a.warm :])

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def product_rates(a):
    """{type: operations a second} of a large product by the fastest library that was built."""
    rates = {}
    for variant in a.variants:
        with CaseProgram(a.cases_program, tokens=1, rank=1, entries=1, threads=a.threads, **variant.options()) as process:
            runs = [process.run(PRODUCT) for _ in range(3)]
        rate = max(run["flops"] / run["wall"] for run in runs)
        rates[variant.dtype] = max(rate, rates.get(variant.dtype, 0))
    return rates


def head(data):
    machine = data["machine"]
    model = f"BERT-{data['size']} with random weights" if data["size"] else data["model"]
    versions = ", ".join(f"{name} {version}" for name, version in (data["torch"] or {}).items()) or f"without torch: {data['torch_missing']}"
    return [
        f"# A BERT's step on {machine['processor'].split(' (')[0]}, {machine['cores']} cores" + (f": BERT-{data['size']}" if data["size"] else ""),
        "",
        *wrapped(
            f"`{data['command']}`, {data['date']}; {machine['processor']}, {machine['instruction_set']}; {data['threads']} threads, at most {data['rounds']} "
            f"rounds of {data['steps']} steps, of which the first {data['warm']} do not count, batch {BATCH} of CoLA{'' if data['with_data'] else ' (the built-in sentences; for torch random words)'}; {model}; "
            f"{versions}; load average {data['load_before']:.1f} before, {data['load_after']:.1f} after."
        ),
        "",
        *wrapped(
            "All cases run in turn in every round; a ratio is that of two cases of the same round. Times are those of a step: the median of a round's steps "
            "(where the row says so their mean), then the median of the rounds (least-most). Peak memory: of the program's own process while it trains. "
            "torch in bf16 is autocast; LoRA beside torch is peft's. Products: the library that the program chose, or was told to take."
        ),
        "",
    ]


def step_table(data):
    """A row for each step, float and bf16 side by side."""
    times = data["seconds"]
    rows = []
    for what in dict.fromkeys(title.rpartition(", ")[0] for title in [*times, *data["failed"]]):
        row = [what]
        for dtype in TYPES:
            title = f"{what}, {dtype}"
            rounds, peak = times.get(title), data["peak_bytes"].get(title)
            row += [spread(rounds, 3) if rounds else "", f"{peak / 2**20:.0f}" if peak else "", data["products"].get(title, "")]
        both = [times.get(f"{what}, {dtype}") for dtype in TYPES]
        row.append(spread([x / y for x, y in zip(*both)]) if all(both) else "")
        rows.append(row)
    columns = [text for dtype in TYPES for text in (f"{dtype}: s a step", "peak MiB", "products")]
    return table(["step", *columns, "float / bf16"], rows)


def page(data):
    lines = head(data) + step_table(data)
    rows = []
    for dtype in TYPES:
        rates, shares = data["product_flops"].get(dtype), share_of_product(data, dtype)
        if rates:
            rows.append([dtype, spread([1e-9 * r for r in rates], 0), spread(shares) if shares else ""])
    if rows:
        dense = operations(data["size"], data)
        lines += wrapped(f"A dense step of 32 x 128 tokens has {1e-12 * dense:.2f} TFLOP. Its rate over that of a large product of the same rounds:") + [""]
        lines += table(["type", "product of 4096 x 4096, GFLOP/s", "ft's rate over it"], rows)
    rows = list(ratio_rows(compared(), TYPES, lambda first, second, dtype: ratios_of(data, f"{first}, {dtype}", f"{second}, {dtype}")))
    if rows:
        lines += ["## Ratios", ""] + table(["time of / time of", *TYPES], rows)
    rows = [[t["what"], t["wanted"], t["found"], verdict(t["met"], t["why"])] for t in targets(data)]
    if rows:
        lines += ["## Targets", ""] + table(["what", "wanted", "found: median (least-most)", ""], rows)
    rows = [[what, f"{ratio:.3f}", *judged(ratio, wanted)] for what, ratio, wanted in memory_ratios(data)]
    if rows:
        lines += ["## Peak memory", ""] + table(["of / of", "ratio", "wanted", ""], rows)
    if data["failed"]:
        lines += ["## Not measured", ""]
        for title, why in data["failed"].items():
            lines += wrapped(f"- {title}: {why}")
        lines.append("")
    return "\n".join(lines)


def write_page(data, output, name):
    data["targets"] = targets(data)
    write_aside(pathlib.Path(output) / f"{name}.json", json.dumps(data, separators=(",", ":")) + "\n")
    write_aside(pathlib.Path(output) / f"{name}.md", page(data))


def measure(a, cases, data, keep):
    """Runs the rounds; fills `data` and calls keep() after every case."""
    other = Torch(a)
    data["torch"], data["torch_missing"] = other.versions, getattr(other, "why", "")
    start = time.perf_counter()
    took = {}
    try:
        for number in range(a.rounds):
            if number > 0 and a.budget and time.perf_counter() - start > a.budget:
                break
            for dtype, rate in product_rates(a).items():
                data["product_flops"].setdefault(dtype, []).append(rate)
            for case in cases:
                title = case.title
                if title in data["failed"]:
                    continue
                # A case that would not end in time is left out, in the first round only when the time is up.
                ends = time.perf_counter() - start + (took[title] if number > 0 else 0)
                if a.budget and ends > a.budget:
                    if number == 0:
                        data["failed"][title] = f"left out: no time within the {a.budget:g} s of this run"
                    continue
                print(f"round {number + 1} of {a.rounds}: {title}", file=sys.stderr, flush=True)
                began = time.perf_counter()
                try:
                    if case.of_torch:
                        seconds = other.seconds(case)
                    else:
                        seconds, peak, products = program_run(a, case, str(pathlib.Path(a.scratch) / "run"))
                        data["peak_bytes"][title] = max(peak, data["peak_bytes"].get(title, 0))
                        data["products"][title] = (products or {}).get("float" if case.dtype == "float" else "low_precision", "")
                except Failed as why:
                    data["failed"][title] = str(why)
                    data["seconds"].pop(title, None)
                else:
                    data["seconds"].setdefault(title, []).append(seconds)
                took[title] = time.perf_counter() - began
                keep()
    finally:
        other.end()


def prepare_model(a, folder):
    """The folder that both sides read."""
    if not a.size:
        return a.model
    model = pathlib.Path(folder) / "model"
    random_bert.write(model, a.size)
    words = pathlib.Path(a.model) / "vocab.txt" if a.model else None
    if words and words.exists() and sum(1 for _ in open(words, encoding="utf-8")) == random_bert.SIZES[a.size][3]:
        shutil.copy(words, model / "vocab.txt")  # the sentences have the lengths of real ones then
    return str(model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="sparsegrad-glue")
    parser.add_argument("--cases-program", default=str(HERE.parent / "build" / "release" / "benchmarks" / "benchmark_cases"))
    parser.add_argument("--model", help="folder of a BERT")
    parser.add_argument("--size", choices=random_bert.SIZES, default="", help="random weights in place of the model's")
    parser.add_argument("--data", help="GLUE folder with CoLA")
    parser.add_argument("--products", default="auto", choices=["auto", "onednn", "blas", "eigen"], help="of the program's cases")
    parser.add_argument("--dtype", action="append", default=[], choices=[*TYPES, "auto"], help="repeatable; auto, and the default: both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=2, help="the first steps of a case, which do not count")
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--budget", type=float, default=0, help="seconds after which no further case is begun; 0: none")
    parser.add_argument("--case-seconds", type=float, default=1200, help="a case that takes longer is stopped")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", action="append", default=[], help="cases whose title begins so; repeatable")
    parser.add_argument("--output", help="folder of the json file and the page; default: the page on the standard output")
    parser.add_argument("--page-only", action="store_true", help="measure nothing: the page again from the json file")
    a = parser.parse_args()
    name = f"bert_{a.size}" if a.size else "bert"
    if a.page_only:
        if not a.output:
            parser.error("--page-only needs --output")
        write_page(json.loads((pathlib.Path(a.output) / f"{name}.json").read_text()), a.output, name)
        return 0
    if not a.program or not (a.model or a.size):
        parser.error("--program and one of --model and --size are needed")
    if a.warm < 1 or a.steps <= a.warm or a.rounds < 1:
        parser.error(f"--warm {a.warm} --steps {a.steps} --rounds {a.rounds}: expected 1 or more, more steps than that, and a round")
    types = TYPES if not a.dtype or "auto" in a.dtype else a.dtype
    cases = [case for case in cases_of(bool(a.size), a.quick) if case.dtype in types]
    if a.only:
        cases = [case for case in cases if any(case.title.startswith(start) for start in a.only)]
        if not cases:
            parser.error(f"no case's title begins with {a.only}")
    about = described(a.cases_program)
    a.variants = usual_variants(about["variants"])
    shown = [f"--size {a.size}"] * bool(a.size) + ["--quick"] * a.quick + ["--only " + repr(title) for title in a.only]
    shown += [f"--dtype {dtype}" for dtype in a.dtype] + [f"--products {a.products}"] * (a.products != "auto")
    data = {
        "command": " ".join(["benchmarks/bert_step.py", f"--rounds {a.rounds}", f"--steps {a.steps}", f"--warm {a.warm}", f"--threads {a.threads}", *shown]),
        "date": str(datetime.date.today()),
        "machine": about["machine"],
        "size": a.size,
        "threads": a.threads,
        "rounds": a.rounds,
        "steps": a.steps,
        "warm": a.warm,
        "with_data": bool(a.data),
        "load_before": os.getloadavg()[0],
        "seconds": {},
        "peak_bytes": {},
        "products": {},
        "product_flops": {},
        "failed": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        a.scratch = folder
        a.model_folder = prepare_model(a, folder)
        config = json.loads((pathlib.Path(a.model_folder) / "config.json").read_text())
        data["extents"] = [config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"], config["vocab_size"]]
        unnamed = f"a BERT of {data['extents'][0]} layers, {data['extents'][1]} wide"
        data["model"] = without_folders(config.get("_name_or_path") or "") or unnamed

        def keep():
            data["load_after"] = os.getloadavg()[0]
            if a.output:
                write_page(data, a.output, name)

        measure(a, cases, data, keep)
        keep()
    if not a.output:
        print(page(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
