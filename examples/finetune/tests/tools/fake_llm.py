#!/usr/bin/env python3
"""Imitates `sparsegrad-llm` as far as the tools see it. FAKE_CALLS names a file that hears of every start; FAKE_FAIL is a
part of the output folder of a run that fails; FAKE_RIGHT is how many questions a trained model answers rightly."""

import json
import os
import pathlib
import sys


def main():
    if sys.argv[1:] == ["--version"]:
        print("0.0.1")
        return 0
    command, words = sys.argv[1], sys.argv[2:]
    options = {name: value for name, value in zip(words, words[1:]) if name.startswith("--")}
    if "FAKE_CALLS" in os.environ:
        with open(os.environ["FAKE_CALLS"], "a") as calls:
            calls.write(" ".join([command, *words]).replace("\n", " ") + "\n")
    trained = "runs" in options.get("--model", "")
    if command == "evaluate":
        right = int(os.environ.get("FAKE_RIGHT", 30)) if trained else 4
        print(f"loss 1.5\nexact_match {right / 40:.6f} ({right} of 40, the last number of a greedy answer)")
    elif command == "generate":
        number = pathlib.Path(options["--model"]).name if trained else "none"
        print("That is 7.\n#### 7" if trained else f"I do not know, {number}.")
    elif command == "export":
        pathlib.Path(options["--output"]).write_bytes(bytes(100000))
    elif command == "train":
        folder = pathlib.Path(options["--output"])
        if os.environ.get("FAKE_FAIL", "none") in str(folder):
            print("it does not work", file=sys.stderr)
            return 1
        after = 1.5 if options["--run-type"] == "frozen" else 0.5
        kept = 1000 if options["--run-type"] == "sparse" else 0
        log = {
            "format": "sparsegrad-llm run 1",
            "finished": True,
            "data": {"train": {"examples": 480}},
            "steps": [{"step": s, "mean_loss": 1.5 - 0.1 * s, "kept_entries": kept} for s in range(1, 6)],
            "evaluations": [
                {"step": 0, "epoch": 0, "loss": 1.5, "metrics": {"perplexity": 4.5}},
                {"step": 5, "epoch": 1, "loss": after, "metrics": {"perplexity": 1.6}},
            ],
            "best": {"step": 0 if after == 1.5 else 5, "metric": "perplexity", "value": 1.6},
            "time": {"training_seconds": 20, "phase1_seconds": 3},
            "memory": {"process_peak_bytes": 400 * 2**20},
            "trained": {"dense_parameters": 0 if kept else 500},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_text(json.dumps(log))
    return 0


if __name__ == "__main__":
    sys.exit(main())
