#!/usr/bin/env python3
"""Fine-tunes a language model on questions and answers sparsely, with LoRA, and, as a control, not at all; compares.

llm_demo.py --program P --model FILE --output DIR [--data FILE] [-- option of train...]

Without --data the questions are generated (word_problems.py). A run that is finished under the same options is not
repeated. Writes table.md, curves.png, and the sparse run's adapter for peft and for llama.cpp; shows one question that the
model answers before and after, and ends with a sentence that is made from the numbers.
"""

import argparse
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys

from glue_plots import draw_curves
from glue_runs import Failed, Runner, ends_with_this_process, markdown, mebibytes, read_json, run_tool, say, write_aside
from word_problems import json_lines, word_problems

# Learning rates: what docs/results/llm_table6.md found to be the best, whose LoRA has scale 1 and three times the rate.
KINDS = {
    "sparse": {"title": "sparse (default)", "options": "--run-type sparse --learning-rate 1e-3"},
    "lora": {"title": "LoRA, rank 16", "options": "--run-type lora --lora-rank 16 --lora-scale 2 --learning-rate 1e-3"},
    "frozen": {"title": "nothing trained (control)", "options": "--run-type frozen --max-steps 1"},
}
TRAIN, HELD = 400, 64
COMMON = ["--epochs", "1", "--batch-size", "8", "--accumulation", "1", "--max-length", "256", "--schedule", "linear"]
COMMON += ["--eval-every", "25", "--log-every", "1"]


def records_of(path):
    """The records of a file of JSON lines, or of one JSON array."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data is {path}: {error}; expected JSON lines, or one JSON array, of questions and answers") from None


def split(records, folder):
    """Writes train.jsonl and held.jsonl; what is held out is not trained on."""
    if len(records) < 2 * HELD:
        raise SystemExit(f"--data has {len(records)} records, expected at least {2 * HELD}")
    records = random.Random(42).sample(records, min(len(records), TRAIN + HELD))
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"held": records[:HELD], "train": records[HELD:]}
    for name, part in parts.items():
        write_aside(folder / f"{name}.jsonl", json_lines(part))
    return folder / "train.jsonl", folder / "held.jsonl"


class Demo:
    def __init__(self, arguments):
        self.arguments = arguments
        self.output = arguments.output
        self.machine = ["--dtype", arguments.dtype, *(["--threads", str(arguments.threads)] if arguments.threads else [])]
        self.runner = Runner(arguments.program, 1, 0, [*COMMON, *self.machine, *arguments.more])

    def ask(self, words, questions=None):
        """What another command of the program prints."""
        words = [self.runner.program, *map(str, words)]
        done = subprocess.run(
            words, input=questions, stdout=subprocess.PIPE, text=True, errors="replace", check=False, preexec_fn=ends_with_this_process()
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words[1:3])} ended with status {done.returncode}")
        return done.stdout

    def exact_match(self, model, held):
        """Right answers among the first questions that are held out, and how many those are."""
        words = ["evaluate", "--model", model, "--data", held, "--quiet", "--max-length", "256", "--dev-limit", self.arguments.ask]
        text = self.ask([*words, "--exact-match", self.arguments.ask, "--max-new-tokens", "100", *self.machine])
        found = re.search(r"^exact_match \S+ \((\d+) of (\d+)", text, re.MULTILINE)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def answer(self, model, question):
        words = ["generate", "--model", model, "--quiet", "--max-new-tokens", "100", "--prompt", question, *self.machine]
        return self.ask(words).strip()

    def export(self, model):
        """The sparse run's adapter in both forms, with their sizes; nothing where it has none."""
        files = {"peft": self.output / "adapter-peft", "gguf-lora": self.output / "adapter.gguf"}
        for form, target in files.items():
            self.ask(["export", "--model", model, "--base-model", self.arguments.model, "--format", form, "--output", target])
        return files


def size_of(path):
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def final_number(text):
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text.rpartition("####")[2])
    return numbers[-1].replace(",", "") if numbers else ""


def losses(log):
    """Before the first step, and of the best model."""
    evaluations = log["evaluations"]
    best = next(e for e in evaluations if e["step"] == log["best"]["step"])
    return evaluations[0]["loss"], best["loss"]


def held_curve(log):
    return [(e["step"], e["loss"]) for e in log["evaluations"]]


def seconds_of(log):
    return log["time"]["training_seconds"] + log["time"]["phase1_seconds"]


def trained_of(log):
    """Numbers that a step changes: the kept entries of the cores, or all of the adapters."""
    return log["steps"][-1]["kept_entries"] or log["trained"]["dense_parameters"]


def table(logs, right, base_right):
    titles = ["run", "loss before", "loss after", "right before", "right after", "seconds", "peak MiB", "numbers trained"]
    rows = []
    for kind, log in logs.items():
        if isinstance(log, Failed):
            rows.append([KINDS[kind]["title"], "failed"] + [""] * (len(titles) - 2))
            continue
        before, after = losses(log)
        row = [KINDS[kind]["title"], f"{before:.3f}", f"{after:.3f}"]
        row += [f"{count} of {asked}" for count, asked in (base_right, right[kind])]
        row += [f"{seconds_of(log):.0f}", mebibytes(log["memory"]["process_peak_bytes"]), f"{trained_of(log)}"]
        rows.append(row)
    return markdown(titles, rows)


def chance(count, asked):
    """Two standard errors of a share of so many questions."""
    share = min(max(count / asked, 1 / asked), 1 - 1 / asked)
    return 2 * math.sqrt(share * (1 - share) / asked)


def conclusion(logs, right, base_right):
    """What the runs show, in a sentence that is made from their numbers."""
    log = logs["sparse"]
    if isinstance(log, Failed):
        return "the sparse run failed, so that there is nothing to compare."
    before, after = losses(log)
    (count, asked), (base_count, _) = right["sparse"], base_right
    gain, noise = (count - base_count) / asked, math.hypot(chance(count, asked), chance(base_count, asked))
    text = (
        f"in {seconds_of(log):.0f} seconds and {mebibytes(log['memory']['process_peak_bytes'])} MiB sparse gradients "
        f"{'lowered' if after < before else 'did not lower'} the loss on answers that the model was not trained on from "
        f"{before:.2f} to {after:.2f}, and it answers {count} of {asked} questions rightly where it answered {base_count} before"
    )
    if gain <= noise:
        text += f" (a difference that chance may explain: {100 * noise:.0f} points would be needed)"
    other = logs.get("lora")
    if not isinstance(other, Failed) and other is not None:
        text += f"; LoRA comes to {losses(other)[1]:.2f} and {right['lora'][0]}"
    control = logs.get("frozen")
    if not isinstance(control, Failed) and control is not None:
        unchanged = losses(control)[0] == losses(control)[1]
        text += f", and the control, of which nothing trains, {'stays as it was' if unchanged else 'has changed'}"
    return text + "."


def example(demo, held, trained):
    """A question with the right answer and those of the model before and after: of the first few one that it got wrong
    before and right after, else the first."""
    shown = None
    for record in records_of(held)[:4]:
        question, wanted = record.get("question"), record.get("answer")
        if not isinstance(question, str) or not isinstance(wanted, str):
            return None
        before, after = demo.answer(demo.arguments.model, question), demo.answer(trained, question)
        found = (question, wanted, before, after)
        shown = shown or found
        if final_number(before) != final_number(wanted) == final_number(after):
            return found
    return shown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="sparsegrad-llm")
    parser.add_argument("--model", required=True, help="GGUF file, or folder in Hugging Face form")
    parser.add_argument("--output", required=True, type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, help="questions and answers; without it they are generated")
    parser.add_argument("--dtype", default="auto", help="of activations, train's --dtype (auto)")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--ask", type=int, default=32, help="held-out questions that are answered before and after (32)")
    parser.add_argument("more", nargs="*", help="after --: further options of every train command")
    arguments = parser.parse_args()
    if not 1 <= arguments.ask <= HELD:
        parser.error(f"--ask is {arguments.ask}, expected 1 to {HELD}")
    # A relative name means another folder in another place.
    arguments.model = os.path.abspath(arguments.model)
    arguments.output = pathlib.Path(os.path.abspath(arguments.output))
    demo = Demo(arguments)
    demo.output.mkdir(parents=True, exist_ok=True)
    records = word_problems(TRAIN + HELD, 42) if arguments.data is None else records_of(arguments.data)
    train, held = split(records, demo.output / "data")

    wanted = []
    for kind, how in KINDS.items():
        options = ["--model", arguments.model, "--data", str(train), "--validation", str(held), *how["options"].split()]
        wanted.append((how["title"], options, demo.output / "runs" / kind))
    logs = dict(zip(KINDS, demo.runner.run_all(wanted)))
    say("--- questions that were held out, answered before and after")
    base_right = demo.exact_match(arguments.model, held)
    models = {kind: demo.output / "runs" / kind / "model" for kind in logs}
    # The control's model is the one that it began with.
    right = {
        kind: base_right if kind == "frozen" else demo.exact_match(models[kind], held)
        for kind, log in logs.items()
        if not isinstance(log, Failed)
    }
    text = table(logs, right, base_right)
    shown = "What you have just seen: " + conclusion(logs, right, base_right)
    name = "generated word problems" if arguments.data is None else str(arguments.data)
    text = f"{pathlib.Path(arguments.model).name}; {name}: {TRAIN} to train on, {HELD} held out\n\n{text}\n{shown}\n"
    write_aside(demo.output / "table.md", text)
    curves = {KINDS[kind]["title"]: [log] for kind, log in logs.items() if kind in right and kind != "frozen"}
    data_name = name if arguments.data is None else arguments.data.name
    plot = draw_curves(curves, "loss of held-out answers", demo.output / "curves.png", held_curve, data_name)
    say("\n" + text)
    if "sparse" in right:
        found = example(demo, held, models["sparse"])
        if found is not None:
            for title, part in zip(("question", "right answer", "before training", "after training"), found):
                say(f"{title}:\n  " + part.replace("\n", "\n  "))
        files = demo.export(models["sparse"])
        say("\nAdapter of the sparse run: " + ", ".join(f"{path} ({size_of(path):.1f} MB, {form})" for form, path in files.items()))
        say(f"Ask it yourself: {demo.runner.program} generate --model {models['sparse']}")
    say(f"Table: {demo.output / 'table.md'}; curves: {plot or 'none'}")
    return 1 if any(isinstance(log, Failed) for log in logs.values()) else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
