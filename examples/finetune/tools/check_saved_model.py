#!/usr/bin/env python3
"""Loads a folder that `sparsegrad-glue train` saved in transformers, and compares its logits with the program's.

check_saved_model.py --program build/finetune/sparsegrad-glue --model runs/x/model

The sentences are the script's own; the model's number of outputs decides the task under which the program reads them,
from a copy whose labels have no names: those of its own task would be refused, or put in another order.
Exit status: 0 they agree, 1 they do not, 3 torch or transformers is missing.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

TOLERANCE = 1e-4  # of float32 sums in another order, relative to logits of about 1

PAIRS = [
    ("The cat slept on the mat.", "A cat was asleep on a mat."),
    ("She reads old books at night.", "Nobody in the house can read."),
    ("It rained - all week long!", "It's been a wet week, hasn't it?"),
    ("Übermäßig viele Äpfel fielen.", "Too many apples fell, 37 of them (at least)."),
    ("a", "b"),
    ("word " * 200, "cut at the model's length"),
]
# Of each number of outputs: task, file, header, row.
LAYOUTS = {
    1: ("stsb", "STS-B/dev.tsv", "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore", "0\tg\tf\ty\t0\ts\ts\t{}\t{}\t1.0"),
    2: ("mrpc", "MRPC/dev.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t1\t2\t{}\t{}"),
    3: ("mnli", "MNLI/dev_matched.tsv", "sentence1\tsentence2\tgold_label", "{}\t{}\tneutral"),
}


def nameless_copy(model, outputs, folder):
    """The model's folder with labels that are called by their numbers."""
    folder.mkdir()
    for file in pathlib.Path(model).iterdir():
        if file.is_file() and file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((pathlib.Path(model) / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(outputs)}
    config["label2id"] = {f"LABEL_{i}": i for i in range(outputs)}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def program_logits(program, model, outputs, length, folder):
    """What `evaluate --predictions` writes, [examples][outputs]."""
    task, name, header, row = LAYOUTS[outputs]
    file = folder / name
    file.parent.mkdir(parents=True)
    file.write_text("\n".join([header, *(row.format(a, b) for a, b in PAIRS)]) + "\n", encoding="utf-8")
    predictions = folder / "predictions.tsv"
    words = [program, "evaluate", "--task", task, "--model", nameless_copy(os.path.abspath(model), outputs, folder / "model"), "--data", folder, "--max-length", length, "--quiet", "--predictions", predictions]
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)
    return [[float(x) for x in line.split("\t")[:-1]] for line in predictions.read_text().splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True, help="the folder `model` of a run's output")
    parser.add_argument("--max-length", type=int, default=128)
    a = parser.parse_args()
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        print(f"{error}: needs Python's torch and transformers", file=sys.stderr)
        return 3
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    model, loading = AutoModelForSequenceClassification.from_pretrained(a.model, output_loading_info=True)
    model.float().eval()
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[what]:
            print(f"{a.model}: {what.replace('_', ' ')}: {', '.join(map(str, loading[what]))}")
            return 1
    outputs = model.config.num_labels
    if outputs not in LAYOUTS:
        print(f"{a.model}: has {outputs} outputs, expected 1, 2 or 3")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        found = torch.tensor(program_logits(a.program, a.model, outputs, a.max_length, pathlib.Path(folder)))
    expected = []
    with torch.no_grad():
        for first, second in PAIRS:
            batch = tokenizer(first, second, truncation="longest_first", max_length=a.max_length, return_tensors="pt")
            expected.append(model(**batch).logits[0])
    expected = torch.stack(expected)
    difference = (found - expected).abs().max().item()
    good = difference <= TOLERANCE * (1 + expected.abs().max().item())
    print(f"{model.__class__.__name__}, {len(PAIRS)} pairs: logits differ by at most {difference:.2g}, {'as rounding may' if good else 'too much'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
