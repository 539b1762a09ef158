#!/usr/bin/env python3
"""The whole suite: runs every part that this machine can run and writes one page about it.

    report.py [--output FOLDER] [--model DIR --data DIR] [--only PART]... [--rounds N] [--build FOLDER]
    report.py --page-only [--output FOLDER]

Parts, each with a page of its own in FOLDER (benchmarks/results/<machine>):
    steps         layer steps against the dense one, parts of a step, phase 1 (benchmark_compare)
    grid          layer steps over shapes, tokens, entries, ranks, micro-batches, threads; other programs (grid.py, peers.py)
    bert          a whole BERT against torch, run types against each other, memory (bert_step.py); needs --model and --data
    calibrate     the weights of the cost model (sparsegrad-bench calibrate)
    serial        what of a step stays serial (benchmark_serial_share)
    compile_time  seconds of a header (compile_time.py)
A part that fails ends the run after the others have run. FOLDER.md is the page: every target with what was found, and
the plots. The machine should have nothing else to do; some fifty minutes on two cores.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

from case_program import CaseProgram, wrapped, write_aside

HERE = pathlib.Path(__file__).resolve().parent


def parts(a, folder):
    """{name: command, or why it is left out}"""
    build = pathlib.Path(a.build)
    rounds = ["--rounds", str(a.rounds)]
    compare = [str(build / "benchmarks" / "benchmark_compare"), "--backends", "cpu_blas", *rounds, "--output", os.path.relpath(folder)]
    python = sys.executable
    wanted = {
        "steps": compare,
        "grid": [python, str(HERE / "grid.py"), "--program", str(build / "benchmarks" / "benchmark_cases"), "--output", str(folder)],
        "bert": "it needs --model and --data",
        "calibrate": [str(build / "sparsegrad-bench"), "calibrate", "--output", str(folder / "cost_model.json")],
        "serial": [str(build / "benchmarks" / "benchmark_serial_share"), "--output", str(folder / "serial_share.md")],
        "compile_time": [python, str(HERE / "compile_time.py"), "--output", str(folder / "compile_time.md")],
    }
    if a.model and a.data:
        bert = [python, str(HERE / "bert_step.py"), "--program", str(HERE.parent / "build" / "finetune" / "sparsegrad-glue"), "--model", a.model, "--data", a.data]
        wanted["bert"] = [*bert, *rounds, "--output", str(folder)]
    return {name: command for name, command in wanted.items() if not a.only or name in a.only}


def read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def target_rows(folder):
    """Rows (where, what, wanted, found, verdict) of all parts that were measured."""
    rows = []
    for name in ("steps", "bert", "grid_targets"):
        data = read(folder / f"{name}.json")
        for t in (data or {}).get("targets", []):
            rows.append([t["section"], t["what"], t["wanted"], t["found"], "met" if t["met"] else "**missed**"])
    return rows


def page(folder, machine):
    rows = target_rows(folder)
    met = sum(row[-1] == "met" for row in rows)
    lines = [
        f"# {machine['processor'].split(' (')[0]}, {machine['cores']} cores",
        "",
        *wrapped(
            f"{machine['processor']}; {machine['memory']} of memory; {machine['compiler']}; {machine['blas']}; {machine['eigen']}. "
            "Written by `benchmarks/run.sh all`; every page below names its command, its date and the load of the machine."
        ),
        "",
    ]
    pages = {
        "steps.md": "layer steps against the dense one, parts of a step, phase 1",
        "grid.md": "layer steps over shapes, tokens, entries kept, ranks, micro-batches and threads, with curves",
        "cells.md": "all cells of the grid",
        "peers.md": "the same computations by torch, peft, TensorLy",
        "bert.md": "the step of a whole BERT, and its memory",
        "cost_model.json": "weights of the cost model",
        "serial_share.md": "what of a step stays serial",
        "compile_time.md": "seconds of a header",
    }
    lines += ["| page | what |", "|---|---|"]
    lines += [f"| [{name}]({folder.name}/{name}) | {what} |" for name, what in pages.items() if (folder / name).exists()]
    lines += ["", f"## Targets: {met} of {len(rows)} met", "", "| where | what | wanted | found | |", "|---|---|--:|--:|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    for picture, text in (("tokens.png", "ratio to the dense step against tokens"), ("rank.png", "against the rank"), ("roofline.png", "roofline")):
        if (folder / picture).exists():
            lines += [f"![{text}]({folder.name}/{picture})", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="folder; default: results/<machine> beside this script")
    parser.add_argument("--build", default=str(HERE.parent / "build" / "release"))
    parser.add_argument("--model", help="folder of a BERT, for the part bert")
    parser.add_argument("--data", default=os.environ.get("SPARSEGRAD_GLUE_DIR"), help="GLUE folder with CoLA (default: $SPARSEGRAD_GLUE_DIR)")
    names = ["steps", "grid", "bert", "calibrate", "serial", "compile_time"]
    parser.add_argument("--only", action="append", default=[], choices=names, help="repeatable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page-only", action="store_true")
    a = parser.parse_args()
    with CaseProgram(pathlib.Path(a.build) / "benchmarks" / "benchmark_cases", tokens=1, rank=1, entries=1) as process:
        machine = process.head["machine"]
    folder = pathlib.Path(a.output) if a.output else HERE / "results" / machine["slug"]
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, command in {} if a.page_only else parts(a, folder).items():
        if isinstance(command, str):
            print(f"{name} is left out: {command}", file=sys.stderr)
            continue
        start = time.perf_counter()
        print(f"== {name}: {' '.join(command)}", file=sys.stderr, flush=True)
        status = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        print(f"== {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if status != 0:
            failed.append(name)
    target = folder.with_suffix(".md")
    write_aside(target, page(folder, machine))
    print(f"wrote {target}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
