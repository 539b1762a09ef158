#!/usr/bin/env python3
"""distributed.py [--build build/release] [--quick] [--loaded] [--out docs/results/distributed.md]

Measures what data parallel costs, with benchmark_mpi under mpirun on this machine, and writes a page:
bytes a step by run type, quality of local selection, and steps between two network namespaces whose link
has a limited rate. Namespaces need root (CAP_NET_ADMIN), `ip` and `tc`; without them that part is left
out, and the page says so. --loaded: marks the page's times as taken beside other work.
"""
import argparse
import contextlib
import datetime
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

from case_program import processor

ROOT = pathlib.Path(__file__).resolve().parent.parent
ADDRESS = "10.77.0."
BRIDGE = "sgbench0"
TYPES = {"dense": 0, "one side of 64": 2, "fixed support 1.2 %": 4, "local top-k 1.2 %": 5}


def mpirun(ranks, command, options=()):
    line = ["mpirun", "--oversubscribe", "--allow-run-as-root", "-n", str(ranks), *options, *map(str, command)]
    out = subprocess.run(line, capture_output=True, text=True, timeout=900)
    if out.returncode != 0:
        raise SystemExit(f"{' '.join(line)} ended with {out.returncode}:\n{out.stderr}")
    return [json.loads(text) for text in out.stdout.splitlines() if text.startswith("{")]


class NoNamespaces(Exception):
    """This machine, or this user, cannot make network namespaces."""


def ip(*words):
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
    except FileNotFoundError:
        raise NoNamespaces("there is no program ip") from None
    if done.returncode != 0:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.strip()}")


@contextlib.contextmanager
def namespaces(count):
    """Namespaces sgbench1, ... on one bridge, and mpirun's options that put a rank into each."""
    made = []
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{ADDRESS}254/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for i in range(1, count + 1):
            name = f"sgbench{i}"
            ip("netns", "add", name)
            made.append(name)
            ip("link", "add", f"sgveth{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"sgveth{i}", "master", BRIDGE, "up")
            ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
            ip("netns", "exec", name, "ip", "addr", "add", f"{ADDRESS}{i}/24", "dev", "eth0")
            ip("netns", "exec", name, "ip", "link", "set", "eth0", "up")
        with tempfile.TemporaryDirectory() as folder:
            agent = pathlib.Path(folder) / "agent.sh"
            # mpirun starts its daemons by it: agent HOST command...; each has a name of its own.
            agent.write_text(
                "#!/bin/sh\nnumber=${1##*.}; shift\n"
                "exec ip netns exec sgbench$number unshare --uts sh -c \"hostname sgbench$number; $*\"\n")
            agent.chmod(0o755)
            hosts = ",".join(f"{ADDRESS}{i}" for i in range(1, count + 1))
            yield ["--host", hosts, "--mca", "plm_rsh_agent", str(agent), "--mca", "btl", "self,tcp",
                   "--mca", "btl_tcp_if_include", f"{ADDRESS}0/24", "--mca", "oob_tcp_if_include",
                   f"{ADDRESS}0/24"]
    finally:
        for i, name in enumerate(made, 1):
            # The kernel takes a namespace down later, and its links with it: their names must be free at once.
            subprocess.run(["ip", "link", "del", f"sgveth{i}"], capture_output=True)
            ip("netns", "del", name)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


def limit(count, gbit, delay_us):
    """Gives each namespace's link a rate; returns how."""
    how = ""
    for i in range(1, count + 1):
        base = ["ip", "netns", "exec", f"sgbench{i}", "tc", "qdisc"]
        subprocess.run([*base, "del", "dev", "eth0", "root"], capture_output=True)
        rate = f"{round(gbit * 1000)}mbit"
        netem = [*base, "add", "dev", "eth0", "root", "netem", "rate", rate, "delay", f"{delay_us}us"]
        if subprocess.run(netem, capture_output=True).returncode == 0:
            how = f"netem, {delay_us} us of delay each way"
        else:  # a kernel without it
            subprocess.run([*base, "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "256kb",
                            "latency", "200ms"], check=True, capture_output=True)
            how = "tbf, no added delay (this kernel has no netem)"
    return how


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(str(x) for x in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def megabytes(n):
    return f"{n / 1e6:.0f}" if n >= 1e9 else f"{n / 1e6:.4g}"


def bytes_part(program, ranks):
    found = [line for n in ranks for line in mpirun(n, [program, "bytes"])]
    text = ""
    for model in dict.fromkeys(line["model"] for line in found):
        of = [line for line in found if line["model"] == model]
        head = ["sent by a rank in a step, MB"]
        head += [f"{n} ranks, {wire}" for n in ranks for wire in ("float", "bf16")]
        rows = []
        for kind in dict.fromkeys(line["type"] for line in of if line["what"] == "bytes"):
            row = [kind]
            for n in ranks:
                for wire in ("float", "bfloat16"):
                    hit = [x["sent"] for x in of if x["what"] == "bytes" and x["ranks"] == n
                           and x["type"] == kind and x["wire"] == wire]
                    row.append(megabytes(hit[0]) if hit else "")
            rows.append(row)
        for key, name in (("gradients", "collection: ten steps of dW"), ("sums", "collection: Gram sums, once")):
            row = [name]
            for n in ranks:
                row += [megabytes(next(x[key] for x in of if x["what"] == "collection" and x["ranks"] == n)), ""]
            rows.append(row)
        text += f"### {model}\n\n" + table(head, rows) + "\n"
    return text, found


def step_part(program, rates, pause, steps):
    rows = []
    how = ""
    with namespaces(2) as options:
        for gbit in rates:
            how = limit(2, gbit, 100)
            count = 1 if gbit < 1 else steps  # half a minute each
            for name, number in TYPES.items():
                for wire in ("float", "bfloat16"):
                    if wire == "bfloat16" and name.startswith("local"):
                        continue
                    alone, = mpirun(2, [program, "step", number, wire, 0, 1, count], options)
                    late, = mpirun(2, [program, "step", number, wire, pause, 0, count], options)
                    early, = mpirun(2, [program, "step", number, wire, pause, 1, count], options)
                    hidden = max(0.0, (late["seconds"] - early["seconds"]) / alone["seconds"])
                    rows.append((gbit, name, wire, alone["seconds"], late["seconds"], early["seconds"], hidden))
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows, how


def step_table(rows):
    dense = {(gbit, wire): late for gbit, name, wire, _, late, _, _ in rows if name == "dense"}
    return table(["Gbit/s, run type, wire", "sums alone, s", "step, sums behind it, s", "step, sums beside it, s",
                  "hidden", "dense step in float in this one"],
                 [(f"{g:g}, {n}, {w}", f"{a:.3f}", f"{l:.3f}", f"{e:.3f}",
                   f"{100 * min(h, 1.0):.0f} %" if a >= 0.1 else "",
                   f"{dense[g, 'float'] / e:.1f}") for g, n, w, a, l, e, h in rows])


def step_text(rows, how, loaded):
    return ("Two ranks in two network namespaces, one link each.\n"
            f"Limited by {how};\n{os.cpu_count()} cores{loaded}. Two steps each, one at 0.1 Gbit/s or with --quick.\n\n"
            "BERT-base's linear layers: the backward of each of the 12 layers is a pause of 40 ms, so that the\n"
            "processor is free for the messages. Hidden: the part of the sums' time that a step saves when\n"
            "they begin in the backward pass, where a thread lets the messages go on. All of a fixed support is\n"
            "less than one bucket, which leaves at the end. Local selection takes its time on the processor:\n"
            "85 M numbers, random here, are searched on one thread, where the other rows have their selection\n"
            "still to come. Dense sums in float have 340 MB, 0.27, 2.7 and 27 s at these rates: what a row has\n"
            "above its own is the processor's (copies, sums, rounding, TCP).\n\n"
            + step_table(rows))


def quality_part(program, ranks):
    found = [line for n in ranks for line in mpirun(n, [program, "quality"])]
    return table(["ranks, kept entries, way", "error left", "bytes sent by a rank in a step"],
                 [(f"{x['ranks']}, {x['kept']}, {x['way']}", f"{x['error']:.4f}", f"{x['sent']:.0f}") for x in found])


# The plan's assumptions. A core's bf16 product rate is measured (docs/results/step_profile.md: 427 GFLOP/s on one
# thread), and a step reaches 0.83 of it (docs/results/bert_step.md); the rest is assumed.
NODES = {"64 cores": 64 * 427e9 * 0.83, "8 GPUs of 400 TFLOP/s": 8 * 400e12}
NETWORKS = {"10 Gbit/s": (10e9 / 8, 30e-6), "100 Gbit/s": (100e9 / 8, 10e-6), "400 Gbit/s": (400e9 / 8, 5e-6)}
CHOICES = {"64 cores": ("10 Gbit/s", "100 Gbit/s"), "8 GPUs of 400 TFLOP/s": ("100 Gbit/s", "400 Gbit/s")}
TOKENS = {"64 cores": 4096, "8 GPUs of 400 TFLOP/s": 65536}


def plan_part(found):
    """Efficiency of a step: compute / (compute + what of the sums is not hidden)."""
    rows = []
    for model in dict.fromkeys(x["model"] for x in found):
        of = {x["type"]: x["numbers"] for x in found if x["what"] == "bytes" and x["model"] == model
              and x["wire"] == "float" and x["ranks"] == 2}
        for node, rate in NODES.items():
            compute = 6 * of["dense"] * TOKENS[node] / rate
            for network in CHOICES[node]:
                bandwidth, latency = NETWORKS[network]
                for kind in ("dense", "one side of 64", "fixed support 1.2 %"):
                    row = [f"{model}, {node}, {network}, {kind}"]
                    for n in (8, 64, 1024):
                        size = 2 * of[kind]  # bf16 on the wire
                        messages = max(1, round(size / 4e6))
                        sums = 2 * (n - 1) / n * size / bandwidth + messages * 2 * latency * math.log2(n)
                        low = compute / (compute + sums)
                        high = compute / (compute + max(0.0, sums - compute * 2 / 3))
                        row.append(f"{100 * low:.0f} to {100 * high:.0f} %")
                    rows.append(row)
    return table(["efficiency of a step", "8 nodes", "64 nodes", "1024 nodes"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs/results/distributed.md")
    parser.add_argument("--quick", action="store_true", help="one step each, at 1 Gbit/s alone")
    parser.add_argument("--loaded", action="store_true", help="mark the times as taken beside other work")
    arguments = parser.parse_args()
    program = arguments.build / "benchmarks/benchmark_mpi"
    if not program.exists():
        raise SystemExit(f"{program} is not there, expected the target benchmark_mpi (built where MPI is found)")
    loaded = ", **beside other work on the machine**" if arguments.loaded else ", nothing else on the machine"
    text = ("# Several processes: bytes, times, quality\n\n"
            f"Written by `benchmarks/distributed.py`, {datetime.date.today()}, on an {processor()}.\n"
            "What the words mean, and the plan for many nodes: [distributed.md](../distributed.md).\n\n## Bytes a step\n\n"
            "Counted message by message where they are sent. One layer of each kind is sent, times the number of\n"
            "such layers. Sums are in the order of the ranks.\n\n")
    part, found = bytes_part(program, (2, 4))
    text += part
    text += ("## Local selection\n\n"
             "A layer of 96 x 64 learns a planted change, sparse in a basis of rank 24, from noisy tokens of its\n"
             "own on each rank: 10 steps to find bases of 32 x 32, then 390 of Adam. The error left is relative to\n"
             "the start's, the mean of five seeds. Bytes include the Gram sums.\n\n")
    text += quality_part(program, (2, 4)) + "\n"
    text += "## Steps over a slow link\n\n"
    try:
        with namespaces(2):
            pass
        rates = (1,) if arguments.quick else (10, 1, 0.1)
        rows, how = step_part(program, rates, 40, 1 if arguments.quick else 2)
        text += step_text(rows, how, loaded)
    except NoNamespaces as error:
        text += f"Not measured: network namespaces cannot be made here ({error}).\n"
    text += ("\n## Plan for many nodes\n\nComputed, not measured: [assumptions](../distributed.md#many-nodes). The lower number has no sum\n"
             "hidden, the higher one all that fits beside the backward pass.\n\n" + plan_part(found))
    arguments.out.write_text(text)


if __name__ == "__main__":
    main()
