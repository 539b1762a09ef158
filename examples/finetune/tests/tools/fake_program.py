#!/usr/bin/env python3
"""Imitates `sparsegrad-glue train` as far as the scripts see it: options, run.json, checkpoint, exit status. Its metrics
are functions of its options, so that a test knows them. FAKE_CALLS names a file that hears of every start and end;
FAKE_SECONDS is the time of a step. FAKE_FAIL, FAKE_ABORT, FAKE_UNDEFINED, FAKE_MISMATCHED, FAKE_HANG are parts of the output
folders (with commas between them) of runs that fail, kill themselves, have an undefined metric, have one of the mismatched
set, or hang until five seconds after they are told to end."""

import json
import os
import pathlib
import signal
import sys
import time

METRICS = {
    "cola": ["matthews_correlation", "accuracy"],
    "mrpc": ["accuracy", "f1"],
    "qqp": ["accuracy", "f1"],
    "stsb": ["pearson", "spearman"],
}
TYPES = ["ft", "lora", "sparse", "topk", "meprop", "frozen-mlp"]
PAPER = {"ft": (1e-5, 16), "lora": (2e-5, 32), "sparse": (3e-5, 32)}
STEPS = 12


def options_of(words):
    options = {"flags": set()}
    at = 0
    while at < len(words):
        name = words[at].removeprefix("--")
        if at + 1 < len(words) and not words[at + 1].startswith("--"):
            options[name] = words[at + 1]
            at += 1
        else:
            options["flags"].add(name)
        at += 1
    return options


def write_json(path, content):
    aside = path.with_name(path.name + ".partial")
    aside.write_text(json.dumps(content))
    aside.replace(path)


def tell(*words):
    if "FAKE_CALLS" in os.environ:
        with open(os.environ["FAKE_CALLS"], "a", errors="backslashreplace") as calls:
            calls.write(" ".join(map(str, words)) + "\n")


def in_words(name, folder):
    return any(word and word in str(folder) for word in os.environ.get(name, "").split(","))


def value_of(run_type, seed, task, share):
    """Known to the tests: other ones for every type, seed and task, and better with a larger share."""
    number = TYPES.index(run_type)
    return 0.5 + 0.03 * number + 0.001 * (seed * (number + 1) % 13) + 0.01 * (sum(map(ord, task)) % 7) + 0.02 * share


def main():
    if sys.argv[1:] == ["--version"]:
        print("0.0.1")
        return 0
    options = options_of(sys.argv[2:])
    if "options" in options:
        for name, value in json.loads(pathlib.Path(options["options"]).read_text()).items():
            options.setdefault(name, str(value))
    run_type, task, seed = options["run-type"], options["task"], int(options["seed"] if "seed" in options else 42)
    if options.get("preset") == "paper":
        rate, batch = PAPER.get(run_type, PAPER["sparse"])
        options.setdefault("learning-rate", str(rate))
        options.setdefault("batch-size", str(batch))
    rate, batch = float(options.get("learning-rate", 3e-5)), int(options.get("batch-size", 32))
    share = 0.0
    if run_type in ("sparse", "topk"):
        share = float(options["share"]) if "share" in options else int(options.get("n-params", 28000)) / (768 * 3072)

    folder = pathlib.Path(options["output"])
    folder.mkdir(parents=True, exist_ok=True)
    log, state = folder / "run.json", folder / "checkpoint" / "state.safetensors"
    tell("start", os.getpid(), folder, "resumed" if "resume" in options["flags"] else "new", " ".join(sys.argv[2:]))
    known = {name: value for name, value in options.items() if name not in ("flags", "output", "threads")}
    done = 0
    if "resume" in options["flags"]:
        if log.exists() and json.loads(log.read_text())["finished"]:
            return 0
        if state.exists():
            found = json.loads(state.read_text())
            if found["options"] != known:
                print(f"error: {state}: the run had other options", file=sys.stderr)
                return 1
            done = found["done"]

    names = METRICS.get(task, ["accuracy"]) + (["accuracy_mm"] if in_words("FAKE_MISMATCHED", folder) else [])
    main_value = value_of(run_type, seed, task, share)
    examples = 96

    def evaluation(step):
        """The middle of the run is the best of it."""
        values = [round(main_value - 0.01 * index - 0.001 * abs(step - STEPS // 2), 6) for index in range(len(names))]
        metrics = dict(zip(names, values))
        if in_words("FAKE_UNDEFINED", folder):
            metrics[names[0]] = None
        return {"step": step, "epoch": step * batch / examples, "loss": 0.5, "metrics": metrics, "seconds": 0.1}

    def write_log(finished):
        evaluations = [evaluation(step) for step in range(1, done + 1) if step % 2 == 0]
        best = max(evaluations, key=lambda e: e["metrics"][names[0]] or 0.0, default=None)
        steps = [{"step": step, "mean_loss": 1.0 / step} for step in range(1, done + 1)]
        speed = 2.0 + 0.1 * TYPES.index(run_type) + 0.01 * (seed % 13)
        content = {
            "options": {
                "learning_rate": rate,
                "batch_size": batch,
                "task": task,
                "run_type": run_type,
                "seed": seed,
                "sparse": {"share": share} if share else {},
            },
            "data": {"text": "fake", "train": {"examples": examples}, "dev": {"examples": examples}},
            "steps": steps,
            "evaluations": evaluations,
            "best": best and {"step": best["step"], "metric": names[0], "value": best["metrics"][names[0]] or 0.0},
            "phase1": {
                "steps": 30 if run_type == "sparse" else 0,
                "memory": {"process_peak_bytes": 300 * 2**20 if run_type == "sparse" else 0},
            },
            "time": {"steps_per_second": speed},
            "memory": {"process_peak_bytes": (200 + 10 * TYPES.index(run_type) + seed % 13) * 2**20, "parts_bytes": {}},
            "steps_done": done,
            "finished": finished,
        }
        for part in ("weights", "gradients", "optimizer", "activations", "basis", "collection", "program"):
            content["memory"]["parts_bytes"][part] = 2**20
        content["trained"] = {"dense_parameters": 10, "sparse_parameters": 0, "sparse_entries_a_step": 0}
        write_json(log, content)

    write_log(False)
    if in_words("FAKE_HANG", folder):

        def last_step(*_):
            tell("told", os.getpid(), folder)
            time.sleep(5)
            tell("ended", os.getpid(), folder)
            sys.exit(130)

        signal.signal(signal.SIGTERM, last_step)
        tell("hangs", os.getpid(), folder)
        time.sleep(600)
    while done < STEPS:
        time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
        done += 1
        # Both kinds of an end are met: with and without a checkpoint since the last step.
        if done % 3 == 0:
            state.parent.mkdir(exist_ok=True)
            write_json(state, {"options": known, "done": done})
        write_log(False)
        tell("step", os.getpid(), folder, done)
        if done == 5 and in_words("FAKE_ABORT", folder):
            os.kill(os.getpid(), signal.SIGKILL)
        if done == 5 and (in_words("FAKE_FAIL", folder) or rate >= 1):
            print("warning: about to fail", file=sys.stderr)
            print("error: the loss is nan, expected a finite number", file=sys.stderr)
            return 1
    write_log(True)
    state.unlink(missing_ok=True)
    tell("end", os.getpid(), folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
