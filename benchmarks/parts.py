#!/usr/bin/env python3
"""The parts of a layer's step on their own, by all variants of backend and type in turn.

    parts.py [--program FILE] [--output FOLDER] [--rounds 9] [--budget SECONDS] [--fit] [--variant BACKEND:DTYPE]...
    parts.py --page-only --output FOLDER

The layer is 768 -> 3072 with 2048 tokens and 28 000 entries kept. Every round runs every part of every variant once; the first
one, which warms up, does not count. What reads tokens or a weight is measured in every type, what is float in all of them
(selection, optimizers, bases) by the float variants alone. --fit: phase 1 too, which takes long.
Writes FOLDER/parts.json after every round, and parts.md.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import statistics
import sys
import time

from case_program import CaseProgram, Variant, checked_variants, described, spread, table, verdict, wrapped, write_aside

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent / "build" / "release" / "benchmarks" / "benchmark_cases"
SHAPE = {"in": 768, "out": 3072, "tokens": 2048, "entries": 28000}
PAUSE = 0.02


def measure(a, folder):
    data = {
        "command": " ".join(["benchmarks/parts.py", f"--rounds {a.rounds} --threads {a.threads}", *["--fit"] * a.fit]),
        "date": str(datetime.date.today()),
        "machine": a.machine,
        "variants": [v.options() for v in a.variants],
        "threads": a.threads,
        "rounds": 0,
        "load_before": os.getloadavg()[0],
        "parts": {v.slug: {} for v in a.variants},
    }
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        shape = {**SHAPE, "tokens": a.tokens}
        processes = {v: stack.enter_context(CaseProgram(a.program, **shape, threads=a.threads, **v.options())) for v in a.variants}
        for number in range(a.rounds + 1):
            if number > 1 and a.budget and time.perf_counter() - start > a.budget:
                break
            print(f"parts: round {number} of {a.rounds}", file=sys.stderr, flush=True)
            for v, process in processes.items():
                time.sleep(PAUSE)
                for case in process.cases:
                    if case["family"] not in ("part", "machine") or ("gradients to a basis" in case["name"] and not a.fit):
                        continue
                    result = process.run(case["name"])
                    if number == 0:
                        data["parts"][v.slug][case["name"]] = {**case, "wall": [], "cpu": [], "flops": result["flops"], "bytes": result["bytes"]}
                    else:
                        for of in ("wall", "cpu"):
                            data["parts"][v.slug][case["name"]][of].append(float(f"{result[of]:.4g}"))
            data["rounds"] = number
            data["load_after"] = os.getloadavg()[0]
            if number > 0:
                write(folder, data)


def targets(data):
    rows = []
    for v in variants_of(data):
        parts = data["parts"][v.slug]
        for name, part in parts.items():
            wanted, found, met = [], [], True
            if part.get("most_seconds"):
                middle = statistics.median(part["wall"])
                wanted.append(f"{1e3 * part['most_seconds']:.1f} ms")
                found.append(f"{1e3 * middle:.3g} ms")
                met = met and middle <= part["most_seconds"]
            if part.get("most_ratio") and part.get("over") in parts:
                ratio = statistics.median(ratios(part, parts[part["over"]]))
                wanted.append(f"{part['most_ratio']:.2f}")
                found.append(f"{ratio:.3f}")
                met = met and ratio <= part["most_ratio"]
            # Targets are those of float on the BLAS; oneDNN's and bf16's products are faster, so that what is no product is a larger share.
            if wanted and v.slug == "float-cpu_blas":
                rows.append({"section": f"parts, {v.title}", "what": name, "wanted": "<= " + ", ".join(wanted), "found": ", ".join(found), "met": met, "why": ""})
    return rows


def variants_of(data):
    return [Variant(v["backend"], v["dtype"]) for v in data["variants"]]


def ratios(part, other):
    return [x / y for x, y in zip(part["wall"], other["wall"])]


def page(data):
    machine, variants = data["machine"], variants_of(data)
    libraries = "; ".join(filter(None, [machine["blas"], machine["onednn"], machine["eigen"]]))
    lines = [
        f"# Parts of a step on {machine['processor'].split(' (')[0]}, {machine['cores']} cores",
        "",
        *wrapped(
            f"`{data['command']}`, {data['date']}; {machine['processor']}, {machine['instruction_set']}; {machine['compiler']}; {libraries}; {data['threads']} "
            f"threads where a row does not say one; {data['rounds']} rounds; load average {data['load_before']:.1f} before, {data['load_after']:.1f} after."
        ),
        "",
        *wrapped(
            "768 -> 3072, 2048 tokens, 28 000 entries. All variants ran in turn in every round. ms: the median; GFLOP/s or GB/s: of the best round. What reads "
            "no tokens is float in every variant and measured there alone."
        ),
        "",
    ]
    names = list(dict.fromkeys(name for v in variants for name in data["parts"][v.slug]))
    first = variants[0]
    rows = []
    for name in names:
        row = [name]
        for v in variants:
            part = data["parts"][v.slug].get(name)
            if part is None:
                row += ["", ""]
                continue
            best = min(part["wall"])
            rate = f"{1e-9 * part['flops'] / best:.0f} GFLOP/s" if part["flops"] else f"{1e-9 * part['bytes'] / best:.1f} GB/s" if part["bytes"] else ""
            row += [f"{1e3 * statistics.median(part['wall']):.3g}", rate]
        base = data["parts"][first.slug].get(name)
        for v in variants[1:]:
            part = data["parts"][v.slug].get(name)
            row.append(spread(ratios(part, base)) if part and base else "")
        rows.append(row)
    head = ["part", *(text for v in variants for text in (f"{v.title}: ms", "rate")), *(f"{v.title} / {first.title}" for v in variants[1:])]
    lines += table(head, rows)
    rows = [[t["what"], t["wanted"], t["found"], verdict(t["met"], t["why"])] for t in targets(data)]
    if rows:
        lines += ["## Targets", ""] + table(["what", "wanted", "found", ""], rows)
    return "\n".join(lines)


def write(folder, data):
    data["targets"] = targets(data)
    write_aside(folder / "parts.json", json.dumps(data, separators=(",", ":")) + "\n")
    write_aside(folder / "parts.md", page(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--output", help="folder; default: results/<machine> beside this script")
    parser.add_argument("--variant", action="append", default=[], help="cpu_blas:float, cpu_onednn:bf16, ...; repeatable")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, default=SHAPE["tokens"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=0, help="seconds after which no further round is begun; 0: none")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    a = parser.parse_args()
    if a.rounds < 1 or a.threads < 1 or a.tokens < 1:
        parser.error("--rounds, --threads and --tokens must be 1 or more")
    if a.page_only:
        if not a.output:
            parser.error("--page-only needs --output")
        folder = pathlib.Path(a.output)
        write(folder, json.loads((folder / "parts.json").read_text(encoding="utf-8")))
        return
    about = described(a.program)
    a.machine, a.variants = about["machine"], checked_variants(a.variant, about["variants"], parser)
    measure(a, pathlib.Path(a.output) if a.output else HERE / "results" / a.machine["slug"])


if __name__ == "__main__":
    main()
