#!/usr/bin/env python3
"""Writes glue/written_data.json: files of GLUE's tasks as Hugging Face `datasets` and pandas write them.

    make_data_goldens.py

Example i of n has sentence i as its first, sentence i + 5 (mod n) as its second, and label i (mod their number); in test
splits -1, as `datasets` has it. The sentences are this script's own. No network is used.
"""

import io
import json
import pathlib

import datasets
import pandas

# All that delimited text may trip over. Sentences are the project's own.
SENTENCES = [
    "She left, he said.",
    'He said "no", twice.',
    '"Quoted" from the start',
    'all of it "quoted"',
    '"Yes."',
    "a tab\tin the middle",
    "a line\nand another",
    "semicolon; and 'single' quotes",
    "  blanks around  ",
    "Zoë naïve 日本 😀",
    "back\\slash and \\t no tab",
    "",
]

# The columns' names in `datasets`' glue, and the labels.
TASKS = {
    "cola": (["sentence"], [1, 0]),
    "sst2": (["sentence"], [0, 1]),
    "mrpc": (["sentence1", "sentence2"], [1, 0]),
    "stsb": (["sentence1", "sentence2"], [5.0, 3.799999952316284, 0.0]),
    "qqp": (["question1", "question2"], [0, 1]),
    "mnli": (["premise", "hypothesis"], [1, 0, 2]),
    "qnli": (["question", "sentence"], [0, 1]),
    "rte": (["sentence1", "sentence2"], [1, 0]),
    "wnli": (["sentence1", "sentence2"], [0, 1]),
}


def make(task, hidden):
    names, labels = TASKS[task]
    count = len(SENTENCES)
    columns = {}
    for shift, name in enumerate(names):
        columns[name] = [SENTENCES[(i + 5 * shift) % count] for i in range(count)]
    columns["label"] = [-1 if hidden else labels[i % len(labels)] for i in range(count)]
    columns["idx"] = list(range(count))
    return columns


def text_of(write):
    out = io.BytesIO()
    write(out)
    return out.getvalue().decode()


cases = []
for task in TASKS:
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        columns = make(task, split == "test")
        suffix = "_matched" if task == "mnli" and split != "train" else ""
        data = datasets.Dataset.from_dict(columns)
        frame = pandas.DataFrame(columns)
        forms = {
            ".csv": text_of(data.to_csv),
            ".tsv": frame.to_csv(sep="\t"),
            ".jsonl": text_of(data.to_json),
            ".json": frame.to_json(orient="records", force_ascii=False),
        }
        for ending in (".csv", ".tsv", ".jsonl", ".json") if task in ("cola", "mnli") else (".csv", ".tsv"):
            cases.append({"task": task, "split": split, "file": name + suffix + ending, "text": forms[ending]})

    frame = pandas.DataFrame(make(task, False))
    if task in ("mrpc", "cola"):
        for options in ({"sep": ";", "index": False}, {"sep": "\t"}, {"quoting": 1}, {"lineterminator": "\r\n"}):
            cases.append({"task": task, "split": "train", "file": "train.csv", "text": frame.to_csv(**options)})
        cases.append({"task": task, "split": "train", "file": "train.tsv",
                      "text": frame.to_csv(sep="\t", quoting=1, index=False)})

golden = {
    "datasets": datasets.__version__,
    "pandas": pandas.__version__,
    "sentences": SENTENCES,
    "labels": {task: labels for task, (_, labels) in TASKS.items()},
    "cases": cases,
}
path = pathlib.Path(__file__).parent / "glue" / "written_data.json"
path.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")
print(path, len(cases), "cases", path.stat().st_size, "bytes")
