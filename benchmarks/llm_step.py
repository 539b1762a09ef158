#!/usr/bin/env python3
"""The fine-tuning step of a language model, and generation: sparsegrad-llm against transformers + peft and llama.cpp.

    llm_step.py --program P --model MODEL.gguf --data FILE [--rounds 2] [--steps 4] [--batch 4] [--budget SECONDS] ...
    llm_step.py --page-only --output FOLDER

Each round runs every case once, in turn, on the same examples of FILE (JSON lines of question and answer, such as GSM8K's) in the
same order; a case is compared with another of its own round. up and down of every third block train. A step is forward,
backward and optimizer; the first --warm of a case are left out. Tokens a second are real ones: transformers pads its batches to
the longest example, the program does not. Peak memory is the process's own, from the start of training. A LoRA has as many
entries as the core of one side of rank 64, or some fewer.
The others: peer_llm.py, in a process for each case; they read the folder that `sparsegrad-llm export` writes. What is missing, or
fails, is said in the page, and the rest is measured. The losses of the first step are compared: the same batches, read alike.
llama.cpp generates with the file itself, and with what the program exports of it as GGUF in float, fp16 and q8_0.

Writes FOLDER/llm.json and FOLDER/llm.md after every case, by default in benchmarks/results/<machine>.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from bert_step import TYPES, Failed, absent, last_line, ratios_of
from case_program import described, ratio_rows, spread, table, verdict, without_folders, wrapped, write_aside

HERE = pathlib.Path(__file__).resolve().parent
SIDE = 64
# Greedy answers to it are longer than what is measured.
PROMPT = "Write a long story about a lighthouse keeper and his daughter, with many details."
QUANTISED = ["--base", "file"]
# What llama.cpp's weights are, beside those of the file.
LLAMA_TYPES = ["float", "fp16", "q8_0"]


class Case:
    """`options` of the program, or of peer_llm.py."""

    def __init__(self, what, dtype, options, peer=False, generates=False):
        self.title = f"{what}, {dtype}" if dtype else what
        self.dtype, self.options, self.peer, self.generates = dtype, options, peer, generates


def lora_rank(config):
    """Whose entries are at most those of a core with one side of rank SIDE."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    return SIDE * inner // (width + inner)


def cases_of(rank, is_gguf):
    """Those that targets need first."""
    cases = []
    lora = ["--run-type", "lora", "--lora-rank", str(rank), "--lora-scale", "1"]
    # Which bases there are changes no time.
    best = ["--run-type", "sparse", "--preset", "best", "--phase1-steps", "1"]
    for dtype in reversed(TYPES):
        cases.append(Case("LoRA", dtype, lora))
        cases.append(Case("peft's LoRA", dtype, ["--what", "lora", "--rank", str(rank)], peer=True))
        cases.append(Case("sparse (best)", dtype, best))
        cases.append(Case("ft", dtype, ["--run-type", "ft"]))
        if is_gguf:
            cases.append(Case("LoRA, quantised base", dtype, [*lora, *QUANTISED]))
            cases.append(Case("sparse (best), quantised base", dtype, [*best, *QUANTISED]))
            cases.append(Case("generation, quantised base", dtype, QUANTISED, generates=True))
        cases.append(Case("generation", dtype, [], generates=True))
        cases.append(Case("transformers' generation", dtype, ["--what", "generate"], peer=True, generates=True))
    if is_gguf:
        cases += [Case(title, "", ["--what", "llama.cpp"], peer=True, generates=True) for title in llama_cases()]
    cases += [Case("transformers' ft", dtype, ["--what", "ft"], peer=True) for dtype in reversed(TYPES)]
    return cases


# ---- measuring -----------------------------------------------------------------------------------------------------


def run_command(command, seconds, **more):
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds, **more)
    except subprocess.CalledProcessError as error:
        raise Failed(f"failed: {last_line(error.stderr)}")
    except subprocess.TimeoutExpired:
        raise Failed(f"stopped after {seconds:g} s")
    except OSError as error:
        raise Failed(f"failed: {error.strerror}")


def counted(a, seconds, tokens, losses, peak):
    """What a case's steps come to, those before --warm left out."""
    rate = sum(tokens[a.warm :]) / sum(seconds[a.warm :])
    return {"a_second": rate, "step": statistics.median(seconds[a.warm :]), "loss": losses[0], "peak": peak, "tokens": sum(tokens[a.warm :])}


def program_run(a, case):
    if case.generates:
        command = [a.program, "generate", *case.options, "--model", a.model, "--dtype", case.dtype, "--threads", str(a.threads), "--prompt", PROMPT]
        done = run_command([*command, "--max-new-tokens", str(a.tokens)], a.case_seconds)
        said = re.search(r"(\d+) written, ([\d.]+) a second", done.stderr)
        if said is None or int(said[1]) < a.tokens:
            raise Failed(f"failed: {said[1] if said else 'no'} tokens were written, expected {a.tokens}")
        return {"a_second": float(said[2])}
    folder = str(pathlib.Path(a.scratch) / "run")
    command = [a.program, "train", "--model", a.model, "--data", a.data, "--validation", a.data, "--dev-limit", "1", "--output", folder]
    command += [*case.options, "--dtype", case.dtype, "--batch-size", str(a.batch), "--accumulation", "1", "--max-length", str(a.max_length)]
    command += ["--max-steps", str(a.steps), "--no-shuffle", "--log-every", "1", "--no-save", "--overwrite", "--quiet", "--threads", str(a.threads)]
    run_command(command, a.case_seconds)
    log = json.loads((pathlib.Path(folder) / "run.json").read_text())
    # The log has the training time up to each step.
    until = [0, *(record["seconds"] for record in log["steps"])]
    seconds = [y - x for x, y in zip(until, until[1:])]
    tokens, losses = ([record[name] for record in log["steps"]] for name in ("tokens", "loss"))
    found = counted(a, seconds, tokens, losses, log["memory"]["process_peak_bytes"])
    return {**found, "trained": log["trained"]["dense_parameters"] + log["steps"][-1]["kept_entries"]}


def peer_run(a, case):
    command = [sys.executable, "-B", str(HERE / "peer_llm.py"), *case.options, "--threads", str(a.threads)]
    if case.options[1] == "llama.cpp":
        kind = case.title.rpartition(", ")[2]
        command += ["--model", gguf_of(a, kind) if kind in LLAMA_TYPES else a.model]
    else:
        command += ["--model", folder_of(a), "--dtype", case.dtype]
    if case.generates:
        command += ["--prompt", PROMPT, "--tokens", str(a.tokens)]
    else:
        command += ["--data", a.data, "--batch", str(a.batch), "--steps", str(a.steps), "--max-length", str(a.max_length)]
    done = run_command(command, a.case_seconds, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})
    found = json.loads(done.stdout)
    if "failed" in found:
        raise Failed(f"failed: {last_line(found['failed'])}")
    if case.generates:
        return found
    return {**found, **counted(a, found["seconds"], found["tokens"], found["losses"], found["peak_bytes"])}


def folder_of(a):
    """The model as a folder, which the others read."""
    if pathlib.Path(a.model).is_dir():
        return a.model
    folder = pathlib.Path(a.scratch) / "folder"
    if not folder.exists():
        run_command([a.program, "export", "--model", a.model, "--output", str(folder), "--quiet"], a.case_seconds)
    return str(folder)


def gguf_of(a, kind):
    file = pathlib.Path(a.scratch) / f"{kind}.gguf"
    if not file.exists():
        command = [a.program, "export", "--model", a.model, "--format", "gguf", "--save-dtype", kind, "--output", str(file), "--quiet"]
        run_command(command, a.case_seconds)
    return str(file)


def measure(a, cases, data, keep):
    start, took = time.perf_counter(), {}
    for number in range(a.rounds):
        for case in cases:
            if case.title in data["failed"]:
                continue
            # A case that would not end in time is left out.
            ends = time.perf_counter() - start + took.get(case.title, 0)
            if a.budget and ends > a.budget:
                if number == 0:
                    data["failed"][case.title] = f"left out: no time within the {a.budget:g} s of this run"
                continue
            print(f"round {number + 1} of {a.rounds}: {case.title}", file=sys.stderr, flush=True)
            began = time.perf_counter()
            try:
                found = (peer_run if case.peer else program_run)(a, case)
            except Failed as why:
                data["failed"][case.title] = str(why)
                data["seconds"].pop(case.title, None)
            else:
                data["seconds"].setdefault(case.title, []).append(1 / found["a_second"])
                data["found"][case.title] = {name: found[name] for name in ("step", "loss", "tokens", "trained") if name in found}
                data["peak_bytes"][case.title] = max(found.get("peak", 0), data["peak_bytes"].get(case.title, 0))
                data["versions"].update(found.get("versions", {}))
            took[case.title] = time.perf_counter() - began
            keep()


# ---- the page ------------------------------------------------------------------------------------------------------


def rate_ratios(data, first, second):
    """Tokens a second of the first over the second's, of the rounds that have both; "seconds" are those of a token."""
    return ratios_of(data, second, first)


def compared():
    pairs = [("LoRA", "peft's LoRA"), ("ft", "transformers' ft"), ("sparse (best)", "LoRA"), ("sparse (best)", "ft"), ("LoRA", "ft")]
    pairs += [("LoRA, quantised base", "LoRA"), ("sparse (best), quantised base", "sparse (best)")]
    pairs += [("generation, quantised base", "generation"), ("generation, quantised base", llama_cases()[-1])]
    return [*pairs, ("generation", "transformers' generation"), *(("generation", theirs) for theirs in llama_cases())]


def llama_cases():
    return [f"llama.cpp's generation, {kind}" for kind in [*LLAMA_TYPES, "the file's type"]]


def titled(what, dtype):
    """llama.cpp has a type of its own."""
    return what if what in llama_cases() else f"{what}, {dtype}"


def targets(data):
    """Rows; `met` is None where `why` says why nothing can be said."""
    rows = []

    def add(what, wanted, values, is_met, missing):
        why = "" if values else missing
        rows.append({"what": what, "wanted": wanted, "found": spread(values) if values else "", "met": None if why else is_met(statistics.median(values)), "why": why})

    def rate(what, first, second, least):
        add(what, f">= {least:.1f}", rate_ratios(data, first, second), lambda found: found >= least, absent(data, first, second))

    def peak(what, first, second, most, allowed=0.0):
        """`allowed`: bytes that the first may have more."""
        peaks = data["peak_bytes"]
        there = peaks.get(first) and peaks.get(second)
        most = most + allowed / peaks[second] if there else most
        add(what, f"<= {most:.3f}", [peaks[first] / peaks[second]] if there else [], lambda found: found <= most, absent(data, first, second))

    for dtype in TYPES:
        rate(f"LoRA in {dtype}, tokens a second over peft's", f"LoRA, {dtype}", f"peft's LoRA, {dtype}", 2)
        rate(f"one side of rank {SIDE} in {dtype}, tokens a second over LoRA's of equal entries", f"sparse (best), {dtype}", f"LoRA, {dtype}", 1)
        update = 4 * data["found"].get(f"sparse (best), {dtype}", {}).get("trained", 0)
        peak(f"one side of rank {SIDE} in {dtype}, peak memory over LoRA's, the update apart", f"sparse (best), {dtype}", f"LoRA, {dtype}", 1, update)
        for what in ("LoRA", "sparse (best)"):
            peak(f"{what} in {dtype}, peak memory over peft's LoRA's", f"{what}, {dtype}", f"peft's LoRA, {dtype}", 0.5)
        for kind in ("float", "q8_0"):
            first, second = f"generation, {dtype}", f"llama.cpp's generation, {kind}"
            rate(f"{first}, tokens a second over {second.replace(', ', ' in ')}", first, second, 0.5)
    return rows


def page(data):
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(data["versions"].items())) or "no other program was found"
    tokens = next((found["tokens"] for found in data["found"].values() if "tokens" in found), 0)
    lines = [f"# A language model's step on {machine['processor'].split(' (')[0]}, {machine['cores']} cores", ""]
    lines += wrapped(
        f"`{data['command']}`, {data['date']}; {machine['processor']}, {machine['instruction_set']}; {data['threads']} threads; {data['model']}; at most "
        f"{data['rounds']} rounds of {data['steps']} steps of {data['batch']} examples, of which the first {data['warm']} do not count (the others have "
        f"{tokens} tokens without padding); LoRA of rank {data['rank']}; {versions}; load average {data['load_before']:.1f} before, {data['load_after']:.1f} after."
    )
    lines += [""] + wrapped(
        "All cases run in turn in every round; a ratio is that of two cases of the same round: median (least-most). Tokens are real ones. Peak memory is the "
        "process's own from the start of training. bf16 of transformers is autocast."
    )
    rows = []
    for title, seconds in data["seconds"].items():
        found, peak = data["found"].get(title, {}), data["peak_bytes"].get(title)
        step = f"{found['step']:.2f}" if "step" in found else ""
        trained = f"{found['trained']:,}" if "trained" in found else ""
        rows.append([title, spread([1 / s for s in seconds], 0), step, f"{peak / 2**20:.0f}" if peak else "", trained, f"{found['loss']:.4f}" if "loss" in found else ""])
    lines += [""] + table(["case", "tokens a second", "s a step", "peak MiB", "entries that a step changes", "first loss"], rows)
    rows = list(ratio_rows(compared(), TYPES, lambda first, second, dtype: rate_ratios(data, titled(first, dtype), titled(second, dtype))))
    if rows:
        lines += ["## Ratios of tokens a second", ""] + table(["of / of", *TYPES], rows)
    rows = [[t["what"], t["wanted"], t["found"], verdict(t["met"], t["why"])] for t in targets(data)]
    lines += ["## Targets", ""] + table(["what", "wanted", "found: median (least-most)", ""], rows)
    if data["failed"]:
        lines += ["## Not measured", ""]
        for title, why in data["failed"].items():
            lines += wrapped(f"- {title}: {why}")
        lines.append("")
    return "\n".join(lines)


def write_page(data, output):
    write_aside(pathlib.Path(output) / "llm.json", json.dumps(data, separators=(",", ":")) + "\n")
    write_aside(pathlib.Path(output) / "llm.md", page(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(HERE.parent / "build" / "finetune" / "sparsegrad-llm"), help="sparsegrad-llm")
    parser.add_argument("--cases-program", default=str(HERE.parent / "build" / "release" / "benchmarks" / "benchmark_cases"))
    parser.add_argument("--model", help="GGUF file or folder")
    parser.add_argument("--data", help="JSON lines of question and answer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warm", type=int, default=1, help="the first steps of a case, which do not count")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128, help="that generation writes")
    parser.add_argument("--budget", type=float, default=0, help="seconds after which no further case is begun; 0: none")
    parser.add_argument("--case-seconds", type=float, default=600, help="a case that takes longer is stopped")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", action="append", default=[], help="cases whose title begins so; repeatable")
    parser.add_argument("--output", help="folder; default: results/<machine> beside this script")
    parser.add_argument("--page-only", action="store_true", help="measure nothing: the page again from the json file")
    a = parser.parse_args()
    if a.page_only:
        if not a.output:
            parser.error("--page-only needs --output")
        write_page(json.loads((pathlib.Path(a.output) / "llm.json").read_text()), a.output)
        return 0
    if not a.model or not a.data:
        parser.error("--model and --data are needed")
    if a.warm < 1 or a.steps <= a.warm or a.rounds < 1:
        parser.error(f"--warm {a.warm} --steps {a.steps} --rounds {a.rounds}: expected 1 or more, more steps than that, and a round")
    a.model, a.data = os.path.abspath(a.model), os.path.abspath(a.data)
    machine = described(a.cases_program)["machine"]
    output = pathlib.Path(a.output) if a.output else HERE / "results" / machine["slug"]
    data = {
        "command": f"benchmarks/run.sh llm --rounds {a.rounds} --steps {a.steps} --batch {a.batch} --threads {a.threads}",
        "date": str(datetime.date.today()),
        "machine": machine,
        "model": without_folders(a.model),
        **{name: getattr(a, name) for name in ("threads", "rounds", "steps", "warm", "batch")},
        "load_before": os.getloadavg()[0],
        **{name: {} for name in ("seconds", "found", "peak_bytes", "versions", "failed")},
    }
    with tempfile.TemporaryDirectory() as folder:
        a.scratch = folder
        try:
            config = json.loads((pathlib.Path(folder_of(a)) / "config.json").read_text())
        except Failed as why:
            raise SystemExit(f"{a.model}: the export as a folder {why}")
        data["rank"] = lora_rank(config)
        cases = cases_of(data["rank"], not os.path.isdir(a.model))
        if a.only:
            cases = [case for case in cases if any(case.title.startswith(start) for start in a.only)]
            if not cases:
                parser.error(f"no case's title begins with {a.only}")

        def keep():
            data["load_after"] = os.getloadavg()[0]
            write_page(data, output)

        measure(a, cases, data, keep)
        keep()
    print(f"{output / 'llm.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
