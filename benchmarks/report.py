#!/usr/bin/env python3
"""Every figure of a processor: runs all parts of the suite that run here and writes one page about it.

    report.py [--quick] [--model DIR] [--data DIR] [--output FOLDER] [--only PART]... [--build FOLDER]
    report.py --page-only [--output FOLDER]

Parts, each with a page of its own in FOLDER (benchmarks/results/<machine>):
    products      what the processor could multiply and what the libraries do (sparsegrad-bench report)
    bert_base     the step of BERT-base with random weights, float and bf16, against torch (bert_step.py)
    bert          the same for the BERT in --model, with its peak memory
    parts         parts of a layer's step by backend and type (parts.py)
    grid          layer steps over shapes, tokens, entries, ranks, micro-batches, threads (grid.py)
    peers         the same computations by other programs (peers.py)
    calibrate     the weights of the cost model (sparsegrad-bench calibrate)
    steps         layer steps against the dense one, phase 1 (benchmark_compare); not with --quick
    serial        what of a step stays serial (benchmark_serial_share); not with --quick
    compile_time  seconds of a header (compile_time.py); not with --quick

--quick: fewer cells, cases and rounds, under twenty minutes on two idle cores; without it some two hours. FOLDER.md is the page:
the processor, the products' rates and every target with what was found. It is written after every part, so that what was
measured is kept where the run is stopped; a part that fails or takes too long is said in the page, and the others run.
The environment is taken as it comes, and named. The machine should have nothing else to do.
"""

import argparse
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from case_program import described, usual_variants, verdict, without_folders, wrapped, write_aside

HERE = pathlib.Path(__file__).resolve().parent
GLUE = HERE.parent / "build" / "finetune" / "sparsegrad-glue"
# Part: seconds with --quick after which it begins nothing new. It is stopped after GRACE more.
BUDGETS = {"products": 20, "bert_base": 520, "bert": 180, "parts": 40, "grid": 150, "peers": 60, "calibrate": 30}
GRACE = 90
QUICK = 1170  # all parts together; what comes after it is left out
WHOLE = 6 * 3600  # a part without --quick
# Variables that change how fast the libraries multiply, or on how many threads.
ENVIRONMENT = ("OPENBLAS_", "OMP_", "GOMP_", "MKL_", "DNNL_", "ONEDNN_", "KMP_", "LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES")
NAMES = [*BUDGETS, "steps", "serial", "compile_time"]


def parts(a, folder, variants):
    """{name: command, or why it is left out}"""
    build, python = pathlib.Path(a.build), sys.executable
    programs = build / "benchmarks"
    threads = ["--threads", str(a.threads)]
    fastest = "cpu_onednn" if any(v.backend == "cpu_onednn" for v in variants) else "cpu_blas"

    def script(name, *options):
        return [python, "-B", str(HERE / name), *options, "--output", str(folder)]

    def sized(quick, whole):
        return quick if a.quick else whole

    def bert(*options):
        data = ["--data", a.data] if a.data else []
        model = ["--model", a.model] if a.model else []
        command = ["bert_step.py", "--program", a.glue, "--cases-program", str(programs / "benchmark_cases"), *model, *data, *threads, *options]
        return script(*command, *sized(["--quick"], []))

    cases = ["--program", str(programs / "benchmark_cases"), *threads]
    wanted = {
        "products": [str(build / "sparsegrad-bench"), "report"],
        "bert_base": bert("--size", a.size, *sized(["--rounds", "2", "--steps", "3", "--warm", "1", "--case-seconds", "200"], ["--rounds", "3", "--steps", "6"])),
        "bert": bert(*sized(["--rounds", "2", "--steps", "5", "--case-seconds", "90"], [])) if a.model else "it needs --model",
        "parts": script("parts.py", *cases, *sized(["--rounds", "5"], ["--fit"])),
        "grid": script("grid.py", *cases, "--peers", "no", *sized(["--quick", "--rounds", "2", "--seconds", "0"], [])),
        "peers": script("grid.py", *cases, "--peers", "only", *sized(["--quick", "--peer-rounds", "5"], [])),
        "calibrate": [str(build / "sparsegrad-bench"), "calibrate", "--backend", fastest, *threads, "--output", str(folder / "cost_model.json")],
        "steps": [str(programs / "benchmark_compare"), "--backends", "cpu_blas", "--rounds", "5", "--output", os.path.relpath(folder)],
        "serial": [str(programs / "benchmark_serial_share"), "--output", str(folder / "serial_share.md")],
        "compile_time": script("compile_time.py")[:-1] + [str(folder / "compile_time.md")],
    }
    if a.quick:
        wanted = {name: command for name, command in wanted.items() if name in BUDGETS}
        for name in ("bert_base", "bert", "parts", "grid", "peers"):
            if not isinstance(wanted[name], str):
                wanted[name] += ["--budget", str(BUDGETS[name])]
    return {name: command for name, command in wanted.items() if not a.only or name in a.only}


def environment():
    """What of the environment changes products and threads, as it comes."""
    found = [f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith(ENVIRONMENT)]
    return without_folders(", ".join(found)) or "nothing is set that the libraries read"


def lscpu():
    """The lines that tell one processor from another, as (what, value)."""
    wanted = ["Model name", "Vendor ID", "CPU family", "Model", "Stepping", "Thread(s) per core", "CPU(s)", "L1d cache", "L2 cache", "L3 cache", "Hypervisor vendor"]
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in text.splitlines() if ":" in line}
    return [(name, found[name]) for name in wanted if name in found]


def read(file):
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def target_rows(folder):
    """Rows (where, what, wanted, found, verdict) of all parts that were measured."""
    rows = []
    for name in ("bert_base", "bert_small", "bert", "steps", "parts", "grid_targets"):
        for t in (read(folder / f"{name}.json") or {}).get("targets", []):
            rows.append([t["section"], t["what"], t["wanted"], t["found"], verdict(t["met"], t.get("why", ""))])
    return rows


def head(folder, about):
    machine = about["machine"]
    libraries = [machine["compiler"], machine["blas"], machine["onednn"], machine["eigen"]]
    rows = [
        ("processor", f"{machine['processor']}, {machine['instruction_set']}"),
        *((f"lscpu: {name}", value) for name, value in about.get("lscpu", [])),
        ("threads", str(about.get("threads", machine["cores"]))),
        ("memory", machine["memory"]),
        ("libraries", "; ".join(filter(None, libraries))),
        ("environment", about.get("environment", "")),
        ("command", f"`{about.get('command', '')}`"),
        ("date", about.get("date", "")),
        ("load average before", about.get("load_before", "")),
        ("sparsegrad", about.get("sparsegrad", "")),
    ]
    lines = [f"# {machine['processor'].split(' (')[0]}, {machine['instruction_set']}, {machine['cores']} cores", ""]
    return lines + ["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows if value), ""]


def page(folder, about):
    lines = head(folder, about)
    if about.get("products"):
        lines += ["One thread (`sparsegrad-bench report`):", "", "```", *about["products"].strip().splitlines(), "```", ""]
    rows = target_rows(folder)
    judged = [row for row in rows if not row[-1].startswith("not measured")]
    met = sum(row[-1] == "met" for row in judged)
    lines += [f"## Targets: {met} of {len(judged)} met, {len(rows) - len(judged)} not measured", ""]
    lines += ["| where | what | wanted | found | |", "|---|---|--:|--:|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    pages = {
        "bert_base.md": "the step of BERT-base with random weights, float and bf16, against torch",
        "bert_small.md": "the step of a small BERT, to try the command",
        "bert.md": "the step of a 6-layer BERT, and its memory",
        "parts.md": "parts of a layer's step by backend and type",
        "grid.md": "layer steps by backend and type over shapes, tokens, entries, ranks, micro-batches, threads",
        "peers.md": "the same computations by torch, peft, TensorLy",
        "cost_model.json": "weights of the cost model",
        "steps.md": "layer steps against the dense one, phase 1",
        "serial_share.md": "what of a step stays serial",
        "compile_time.md": "seconds of a header",
    }
    lines += ["## Pages", "", "| page | what |", "|---|---|"]
    lines += [f"| [{name}]({folder.name}/{name}) | {what} |" for name, what in pages.items() if (folder / name).exists()] + [""]
    took = about.get("parts", {})
    if took:
        lines += ["| part | seconds | |", "|---|--:|---|"]
        lines += [f"| {name} | {part['seconds']:.0f} | {part['ended']} |" for name, part in took.items()] + [""]
    pictures = sorted(folder.glob("*/tokens.png")) or sorted(folder.glob("tokens.png"))
    for picture in pictures:
        variant = picture.parent.name if picture.parent != folder else ""
        text = "ratio to the dense step against tokens" + (f", {variant}" if variant else "")
        lines += [f"![{text}]({picture.relative_to(folder.parent).as_posix()})", ""]
    return "\n".join(lines)


def index(results):
    """A page that lists the processors' pages."""
    lines = ["# Figures by processor", ""]
    lines += wrapped("Each page is written by `benchmarks/run.sh processor` on that processor. Times compare within a page alone.")
    lines += ["", "| processor | targets |", "|---|---|"]
    for file in sorted(results.glob("*.md")):
        text = file.read_text(encoding="utf-8").splitlines()
        title = next((line[2:] for line in text if line.startswith("# ")), file.stem)
        targets = next((line[len("## Targets: ") :] for line in text if line.startswith("## Targets: ")), None)
        if file.name != "README.md" and targets:
            lines.append(f"| [{title}]({file.name}) | {targets} |")
    return "\n".join(lines) + "\n"


def run(command, seconds, log):
    """How a command ended, in words. It leads a group of processes, which is stopped as one."""
    with open(log, "w", encoding="utf-8") as errors:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        except OSError as error:
            return f"failed: {error.strerror}", ""
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            stop(process)
            return f"stopped after {seconds:g} s; what it had measured is kept", ""
        except BaseException:
            stop(process)
            raise
    if process.returncode == 0:
        return "", output
    lines = [line.strip() for line in pathlib.Path(log).read_text(encoding="utf-8").splitlines() if line.strip()]
    return f"failed with status {process.returncode}: {without_folders(lines[-1])[:200] if lines else 'no message'}", output


def stop(process):
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.communicate(timeout=10)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def write_page(file, folder, about):
    write_aside(file, page(folder, about))
    if file.parent == HERE / "results":
        write_aside(file.parent / "README.md", index(file.parent))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", help="folder; default: results/<machine> beside this script")
    parser.add_argument("--build", default=str(HERE.parent / "build" / "release"))
    parser.add_argument("--glue", default=str(GLUE), help="sparsegrad-glue")
    parser.add_argument("--model", help="folder of a 6-layer BERT, for the part bert; its vocabulary serves bert_base too")
    parser.add_argument("--data", default=os.environ.get("SPARSEGRAD_GLUE_DIR"), help="GLUE folder with CoLA (default: $SPARSEGRAD_GLUE_DIR)")
    parser.add_argument("--size", default="base", choices=["base", "small"], help="small: to try the command")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", action="append", default=[], choices=NAMES, help="repeatable")
    parser.add_argument("--logs", default=str(HERE.parent / "build"), help="folder of benchmark-PART.log, what the parts say meanwhile")
    parser.add_argument("--page-only", action="store_true")
    a = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = described(pathlib.Path(a.build) / "benchmarks" / "benchmark_cases") if not (a.page_only and a.output) else {}
    folder = pathlib.Path(a.output) if a.output else HERE / "results" / found["machine"]["slug"]
    folder.mkdir(parents=True, exist_ok=True)
    page_file, about_file = folder.parent / f"{folder.name}.md", folder / "processor.json"
    about = read(about_file) or {}
    if a.page_only:
        if not about:
            parser.error(f"{about_file} is not there: no run to make a page of")
        write_page(page_file, folder, about)
        print(f"wrote {page_file}")
        return 0
    shown = ["--quick"] * a.quick + [f"--size {a.size}"] * (a.size != "base") + [f"--only {name}" for name in a.only]
    shown += ["--model MODEL"] * bool(a.model) + ["--data GLUE"] * bool(a.data)
    kept = about.get("parts", {}) if a.only else {}
    about.update(
        {
            "machine": found["machine"],
            "sparsegrad": found["sparsegrad"],
            "lscpu": lscpu(),
            "threads": a.threads,
            "environment": environment(),
            "command": " ".join(["benchmarks/run.sh processor", *shown]),
            "date": str(datetime.date.today()),
            "load_before": "%.1f %.1f %.1f" % os.getloadavg(),
            "parts": kept,
        }
    )

    def keep():
        write_aside(about_file, json.dumps(about, indent=1) + "\n")
        write_page(page_file, folder, about)

    failed = []
    began = time.perf_counter()
    try:
        for name, command in parts(a, folder, usual_variants(found["variants"])).items():
            if isinstance(command, str):
                print(f"{name} is left out: {command}", file=sys.stderr)
                about["parts"][name] = {"seconds": 0, "ended": f"left out: {command}"}
                keep()
                continue
            start = time.perf_counter()
            limit = min(BUDGETS[name] + GRACE, QUICK - (start - began)) if a.quick else WHOLE
            print(f"== {name}: {' '.join(command)}", file=sys.stderr, flush=True)
            log = pathlib.Path(a.logs) / f"benchmark-{name}.log"
            about["parts"][name] = {"seconds": 0, "ended": "stopped by hand"}
            ended, output = run(command, max(1, limit), log)
            if name == "products" and not ended:
                about["products"] = output
            about["parts"][name] = {"seconds": time.perf_counter() - start, "ended": ended}
            print(f"== {name}: {time.perf_counter() - start:.0f} s {ended}", file=sys.stderr, flush=True)
            if ended:
                failed.append(name)
            keep()
    except KeyboardInterrupt:
        keep()
        print(f"stopped; {page_file} has what was measured", file=sys.stderr)
        return 130
    print(f"wrote {page_file}")
    if failed:
        print(f"not whole: {', '.join(failed)}; logs are {a.logs}/benchmark-PART.log", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
