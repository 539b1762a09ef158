#!/usr/bin/env python3
"""Searches learning rate and batch size of `sparsegrad-glue train`, or of `sparsegrad-llm train`, with Optuna's TPE.

glue_optimize.py --program P --output DIR [--trials 40] [--timeout 3600] [--objective held-out|dev] -- option of train...

The study lives in DIR/study.db (SQLite): a search that was ended goes on when it is called again, and
`cd DIR && optuna-dashboard sqlite:///study.db` shows it. Each trial's run is in DIR/trials/N. A trial whose metric falls behind
the median of the others after as many examples is ended early; of a language model it is the loss on held-out answers, with
its sign turned. Writes DIR/best.json for `train --options` after each
trial that is the best so far.
Exit status: 0 the trials are done, or their time is over; 1 an error, or no trial was finished; 3 optuna is missing.
"""

import argparse
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from glue_runs import ends_with_this_process, locked, read_json, run_tool, say, write_aside

HELD_OUT = 0.1


def numbers(text, kind):
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        raise SystemExit(f"'{text}': expected numbers with commas between them") from None
    if not values or min(values) <= 0:
        raise SystemExit(f"'{text}': expected positive numbers")
    return values


class TrialFailed(Exception):
    """The program ended with an error that says nothing about the learning rate."""


def value_of(log, evaluation):
    """What the search makes large: the main metric, or of a language model the loss, with its sign turned."""
    if str(log.get("format")).startswith("sparsegrad-llm"):
        return -evaluation["loss"]
    return evaluation["metrics"].get(log["best"]["metric"]) or 0.0


def read_evaluations(log):
    """(examples seen, value) of every evaluation so far; the log is replaced whole, so that it can be read at any
    time. Examples, as trials of different batch sizes are compared after the same number of them."""
    found = read_json(log)
    if not isinstance(found, dict) or not found.get("best"):
        return []
    examples = found["data"]["train"]["examples"]
    return [(round(e["epoch"] * examples), value_of(found, e)) for e in found["evaluations"]]


def end(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.wait()


def run_trial(trial, optuna, command, folder):
    """The best value of the run's main metric; raises TrialPruned where the pruner ends it."""
    # A folder of this number may be left of a study that was removed.
    shutil.rmtree(folder, ignore_errors=True)
    log = folder / "run.json"
    # Its stderr goes to a file: a pipe that nobody reads would hold the program up.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=ends_with_this_process()
        )
        seen = 0
        try:
            while True:
                ended = process.poll() is not None
                evaluations = read_evaluations(log)
                for examples, value in evaluations[seen:]:
                    trial.report(value, examples)
                seen = len(evaluations)
                if ended:
                    break
                if trial.should_prune():
                    raise optuna.TrialPruned()
                time.sleep(0.2)
        finally:
            end(process)
        errors.seek(0)
        text = errors.read().strip()
    if process.returncode == 130:
        raise KeyboardInterrupt
    if process.returncode != 0:
        # A loss that is no number is an answer: this rate is too large.
        if "expected a finite number" in text or "NaN" in text or "Inf" in text:
            raise optuna.TrialPruned()
        raise TrialFailed(f"{shlex.join(command)}\nended with status {process.returncode}: {text}")
    return max((value for _, value in read_evaluations(log)), default=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="sparsegrad-glue or sparsegrad-llm")
    parser.add_argument("--output", required=True)
    parser.add_argument("--trials", type=int, default=40, help="those of earlier calls included")
    parser.add_argument("--timeout", type=float, default=0, help="seconds after which no trial starts (0: none)")
    parser.add_argument("--objective", choices=["held-out", "dev"], default="held-out")
    parser.add_argument("--rates", default="1e-6,1e-1", help="smallest and largest learning rate")
    parser.add_argument("--batches", default="16,32")
    parser.add_argument("--seed", type=int, default=42, help="of the sampler")
    parser.add_argument("more", nargs="*", help="after --: options of every train command")
    a = parser.parse_args()
    try:
        import optuna
    except ImportError:
        print("Python's optuna is missing (scripts/setup.sh --python installs it, or pip install optuna)", file=sys.stderr)
        return 3
    rates, batches = numbers(a.rates, float), numbers(a.batches, int)
    if len(rates) != 2 or rates[0] > rates[1]:
        raise SystemExit(f"--rates is '{a.rates}', expected a smallest and a largest learning rate")
    for name in ("--learning-rate", "--lr", "--batch-size", "--held-out"):
        if any(word == name or word.startswith(name + "=") for word in a.more):
            raise SystemExit(f"{name} is what the search sets; leave it out")

    output = pathlib.Path(a.output)
    output.mkdir(parents=True, exist_ok=True)
    # Two searches in one folder would take each other's running trials for what a kill left behind.
    with locked(output):
        return search(a, optuna, output, rates, batches)


def storage_of(file):
    """SQLAlchemy's URL of a SQLite file. It cuts a plain path at a "?", and versions differ in what they make of a "%";
    SQLite's own form of a path has every such letter as its number."""
    import sqlalchemy

    url = sqlalchemy.engine.URL.create("sqlite", database=file.absolute().as_uri(), query={"uri": "true"})
    return url.render_as_string(hide_password=False)


def search(a, optuna, output, rates, batches):
    searched = {"options": a.more, "objective": a.objective, "rates": rates, "batches": batches}
    stamp = output / "search.json"
    if (stamp.exists() or (output / "study.db").exists()) and read_json(stamp) != searched:
        raise SystemExit(f"{stamp}: a search with other options is there; choose another --output, or remove {output}")
    write_aside(stamp, json.dumps(searched, indent=2) + "\n")

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage_of(output / "study.db"),
        study_name="sparsegrad-glue",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0),
    )
    # A search that goes on must not repeat the first one's random start.
    study.sampler = optuna.samplers.TPESampler(seed=a.seed + len(study.get_trials(deepcopy=False)))
    states = optuna.trial.TrialState
    # What a kill left behind is tried anew.
    for trial in study.get_trials(deepcopy=False, states=[states.RUNNING]):
        study.tell(trial.number, state=states.FAIL)
        study.enqueue_trial(trial.params, skip_if_exists=False)

    def objective(trial):
        rate = trial.suggest_float("learning-rate", rates[0], rates[1], log=True)
        batch = trial.suggest_categorical("batch-size", batches)
        folder = output / "trials" / str(trial.number)
        command = [a.program, "train", *a.more, "--learning-rate", f"{rate:.6g}", "--batch-size", str(batch)]
        command += ["--output", os.path.abspath(folder), "--no-save", "--quiet"]
        if a.objective == "held-out":
            command += ["--held-out", str(HELD_OUT)]
        try:
            value = run_trial(trial, optuna, command, folder)
        except TrialFailed as error:
            trial.set_user_attr("error", str(error))
            raise
        say(f"trial {trial.number}: learning rate {rate:.3g}, batch {batch}: {value:.4f}")
        return value

    def done():
        """A failed trial is one of those wanted, else a search of nothing but failures had no end."""
        ended = study.get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED, states.FAIL])
        return sum(trial.state != states.FAIL or "error" in trial.user_attrs for trial in ended)

    def completed():
        return study.get_trials(deepcopy=False, states=[states.COMPLETE])

    def best_options():
        best = study.best_trial.params
        return {"learning-rate": float(f"{best['learning-rate']:.6g}"), "batch-size": best["batch-size"]}

    def write_best():
        if completed():
            write_aside(output / "best.json", json.dumps(best_options(), indent=2) + "\n")

    write_best()
    start = time.monotonic()
    while done() < a.trials and not (a.timeout and time.monotonic() - start >= a.timeout):
        study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        last = study.get_trials(deepcopy=False)[-1]
        p = last.params
        if last.state == states.PRUNED:
            say(f"trial {last.number}: learning rate {p['learning-rate']:.3g}, batch {p['batch-size']}: ended early")
        if last.state == states.FAIL:
            say(f"trial {last.number} failed: {last.user_attrs.get('error')}", sys.stderr)
            # Where no trial was ever well, it is the options, and the next one would fail, too.
            if not study.get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED]):
                return 1
        write_best()
    if not completed():
        say("no trial was finished", sys.stderr)
        return 1
    say(f"best of {done()} trials: {best_options()}, {a.objective} metric {study.best_value:.4f}")
    say(f"take it with: train --options {shlex.quote(str(output / 'best.json'))}; the search: {output / 'study.db'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
