"""Runs of sparsegrad-glue and the statistics of their logs: shared by main_job.py, glue_bench.py and glue_optimize.py."""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import math
import os
import pathlib
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

# Settings that are compared. Learning rates for the 6-layer BERT: "rate" where all parameters train, found by `main_job.py
# --study` on CoLA (docs/results/cola.md); "mlp_rate" where the MLP matrices, their biases and the head alone do, found on
# the built-in set (docs/results/demo.md). Kinds that a search did not have take a neighbour's.
KINDS = {
    "ft": {"title": "ft", "options": "--run-type ft", "rate": 5e-5, "mlp_rate": 1e-4},
    "lora": {"title": "LoRA", "options": "--run-type lora", "rate": 1e-4, "mlp_rate": 3e-3},
    "sparse-paper": {"title": "sparse (paper)", "options": "--run-type sparse --preset paper", "rate": 1e-4, "mlp_rate": 1e-3},
    "sparse-best": {"title": "sparse (best)", "options": "--run-type sparse --preset best", "rate": 5e-5, "mlp_rate": 3e-4},
    "sparse-layer": {
        "title": "sparse (paper), a basis a layer, refreshed",
        "options": "--run-type sparse --preset paper --basis-scope layer --refresh-every 100",
        "rate": 1e-4,
        "mlp_rate": 1e-3,
    },
    "sparse-fast": {
        "title": "sparse, fast transforms",
        "options": "--run-type sparse --preset paper --width-side hadamard --other-side hadamard",
        "rate": 1e-4,
        "mlp_rate": 1e-3,
    },
    "sparse-random": {
        "title": "sparse, random basis",
        "options": "--run-type sparse --preset paper --width-side random --other-side random",
        "rate": 1e-4,
        "mlp_rate": 1e-3,
    },
    "sparse-random-64": {
        "title": "sparse (best), random basis",
        "options": "--run-type sparse --preset best --width-side random:64",
        "rate": 5e-5,
        "mlp_rate": 3e-4,
    },
    "sparse-reference": {
        "title": "sparse (reference's code)",
        "options": "--run-type sparse --preset paper --keep-phase1 --transposed-basis --rotated-bias --frozen-layernorm "
        "--signed-selection",
        "rate": 1e-4,
        "mlp_rate": 1e-3,
    },
    "topk": {"title": "top-k, no basis", "options": "--run-type topk", "rate": 1e-4, "mlp_rate": 1e-3},
    "meprop": {"title": "meProp", "options": "--run-type meprop", "rate": 5e-5, "mlp_rate": 1e-4},
    "frozen-mlp": {"title": "frozen MLP", "options": "--run-type frozen-mlp", "rate": 1e-4, "mlp_rate": 1e-2},
}


# Batches are the same for all kinds, whatever a preset would choose.
BATCH = "32"


def kind_of(name):
    """What "sparse-paper" or "sparse-paper+n-params=100000+refresh-every=50" stands for; None where it is no kind."""
    base, *changes = name.split("+")
    # A kind is the name of a folder, too.
    if base not in KINDS or "/" in name:
        return None
    kind = dict(KINDS[base])
    for change in changes:
        option, _, value = change.partition("=")
        kind["options"] += f" --{option}" + (f" {value}" if value else "")
        kind["title"] += f", {option} {value}".rstrip()
    return kind


# Streams that could not be written to.
lost = set()


def say(text, stream=None):
    """Prints at once. A stream that takes nothing (a full disk, a reader that has gone) ends no run: `run_tool` tells."""
    stream = stream or sys.stdout
    try:
        encoding = stream.encoding or "utf-8"
        # A path may have letters that the terminal has not, and bytes that are none.
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError as error:
        lose(stream, error)


def lose(stream, error):
    """Sends the rest of the stream, and what child processes write there, nowhere."""
    lost.add(f"{'standard output' if stream is sys.stdout else 'standard error'}: {error.strerror}")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def run_tool(main):
    """The exit status of `main()`: its own; 130 at Ctrl-C; 1, with a line on stderr, where the system refuses a file, or
    took not all that was printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Closed by the caller: the next file that is opened would be taken for it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            if name != "stdin":
                setattr(sys, name, open(number, "w", closefd=False))
            if name == "stdout":
                lost.add("standard output: is closed")
    try:
        status = main()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        say(f"{pathlib.Path(sys.argv[0]).name}: {error}", sys.stderr)
        return 1
    for text in sorted(lost):
        say(f"{pathlib.Path(sys.argv[0]).name}: {text}; the files are whole", sys.stderr)
    return status or (1 if lost else 0)


def read_json(path):
    """None where the file is missing, torn, or no JSON."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_aside(path, text):
    """Writes the whole file or leaves the one before it, whenever the writer is killed."""
    aside = path.with_name(path.name + ".partial")
    try:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
        aside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise


def is_alive(pid):
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def locked(folder, patience=60):
    """The open file FOLDER/lock, locked: one process writes in a folder. A child that inherits the file holds the lock
    until it ends, too: what an ended bench left running (it was told to end) is waited for, a living bench is not."""
    with open(folder / "lock", "a+") as file:
        give_up = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()
                if is_alive(holder) or time.monotonic() > give_up:
                    raise SystemExit(
                        f"{folder}: process {holder} writes there; wait until it ends, or choose another --output"
                    ) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def _find_prctl():
    try:
        return ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
    except (OSError, AttributeError):
        return None


PRCTL = _find_prctl()
PR_SET_PDEATHSIG = 1


def ends_with_this_process():
    """A preexec_fn: the child is told to end (SIGTERM: the program writes a checkpoint) when this process is killed, even
    with kill -9. Does nothing where there is no such thing (Linux has it)."""
    parent = os.getpid()

    def prepare():
        if PRCTL is not None:
            PRCTL(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            # The parent may have ended before that.
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def identity_of(program):
    """What tells one build of the program from another."""
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace", check=False)
        content = pathlib.Path(program).read_bytes()
    except OSError as error:
        raise SystemExit(f"--program is '{program}': {error}") from None
    return {"version": asked.stdout.strip(), "sha256": hashlib.sha256(content).hexdigest()}


class Failed(NamedTuple):
    """In place of the log of a run that failed."""

    status: int  # of the program; negative: the signal that ended it
    error: str  # last line of its stderr

    def text(self):
        return f"status {self.status}: {self.error}" if self.status >= 0 else self.error


class Running:
    """A run's process, its lock, and the end of what it said on stderr."""

    def __init__(self, title, folder, process, lock):
        self.title, self.folder, self.process, self.lock, self.tail = title, folder, process, lock, b""

    def pass_on_errors(self):
        """False at the end of its stderr."""
        text = os.read(self.process.stderr.fileno(), 65536)
        self.tail = (self.tail + text)[-4096:]
        try:
            sys.stderr.write(text.decode(errors="backslashreplace"))
            sys.stderr.flush()
        except OSError as error:
            lose(sys.stderr, error)
        return bool(text)

    def end(self):
        """Exit status and last line on stderr; the folder is free then."""
        while self.pass_on_errors():
            pass
        self.process.stderr.close()
        status = self.process.wait()
        self.lock.close()
        lines = self.tail.decode(errors="replace").split("\n")
        return status, next((line.strip() for line in reversed(lines) if line.strip()), "")


class Runner:
    """Runs the program. A run that is finished under the same options and by the same program is read from disk, one
    that was ended goes on, any other one is made anew."""

    def __init__(self, program, jobs=1, threads=0, more=(), any_program=False):
        found = shutil.which(str(program))
        if found is None:
            raise SystemExit(f"--program is '{program}', expected a file that can be run")
        self.program, self.jobs, self.any_program = os.path.abspath(found), jobs, any_program
        self.identity = identity_of(self.program)
        self.more = [*more, *(["--threads", str(threads)] if threads else [])]

    def stamp(self, options):
        """What a run's result depends on; FOLDER/command.json holds it."""
        words = [*options, *self.more]
        # A file of options may change while its name stays.
        names = [after for word, after in zip(words, words[1:]) if word == "--options"]
        names += [word.partition("=")[2] for word in words if word.startswith("--options=")]
        try:
            files = {name: pathlib.Path(name).read_text(encoding="utf-8") for name in names}
        except (OSError, UnicodeDecodeError) as error:
            raise SystemExit(f"--options: {error}") from None
        return {"options": words, "files": files, "program": self.identity}

    def finished(self, options, folder):
        """The log of the finished run, or None where it is to be made."""
        stamp, found = self.stamp(options), read_json(folder / "command.json")
        log = read_json(folder / "run.json")
        if not isinstance(found, dict) or not isinstance(log, dict) or not log.get("finished"):
            return None
        if found == stamp:
            return log
        if self.any_program and {**found, "program": None} == {**stamp, "program": None}:
            say(f"{folder}: taken as it is, from another program ({self.difference(found, stamp)})")
            return log
        return None

    @staticmethod
    def difference(found, stamp):
        """Why a run is made anew."""
        if not isinstance(found, dict):
            return "its command.json is missing or torn"
        if {**found, "program": None} != {**stamp, "program": None}:
            return "it has other options"
        names = [
            f"{program.get('version')}, {str(program.get('sha256'))[:8]}"
            for program in (found.get("program") or {}, stamp["program"])
        ]
        return f"it is of {names[0]}; this is {names[1]}"

    def run(self, title, options, folder):
        """The run's log, or why it failed. `options` are those of `train` but for --output."""
        return self.run_all([(title, options, folder)])[0]

    def run_all(self, wanted, each=None):
        """The logs (or Failed) of (title, options, folder)..., in their order; each(number, log) hears of them at once.

        All in one thread: when a process is killed, Linux tells its children so for every thread that it had, and the
        program takes a second SIGTERM for an order to end without a checkpoint."""
        logs, ahead = [None] * len(wanted), list(enumerate(wanted))

        def settle(number, log):
            logs[number] = log
            if each is not None:
                each(number, log)

        with selectors.DefaultSelector() as running:
            try:
                while ahead or running.get_map():
                    while ahead and len(running.get_map()) < self.jobs:
                        number, run = ahead.pop(0)
                        try:
                            started = self.start(*run)
                        except OSError as error:
                            started = Failed(1, str(error))
                        if isinstance(started, Running):
                            running.register(started.process.stderr, selectors.EVENT_READ, (number, started))
                        else:
                            settle(number, started)
                    for key, _ in running.select() if running.get_map() else []:
                        number, run = key.data
                        if not run.pass_on_errors():
                            running.unregister(key.fileobj)
                            settle(number, self.finish(run))
            except BaseException:
                # They write a checkpoint.
                for key in running.get_map().values():
                    key.data[1].process.terminate()
                for key in running.get_map().values():
                    key.data[1].end()
                raise
        return logs

    def start(self, title, options, folder):
        """The run as it runs, or its log where it is finished."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(locked(folder))
            log = self.finished(options, folder)
            if log is not None:
                return log
            resumes = self.prepare(options, folder)
            say(f"--- {title}")
            # A relative name may begin with a "-".
            output = os.path.abspath(folder)
            words = ["train", *options, *self.more, "--output", output, *(["--resume"] if resumes else [])]
            process = subprocess.Popen(
                [self.program, *words, *(["--quiet"] if self.jobs > 1 else [])],
                stdout=subprocess.DEVNULL if self.jobs > 1 else None,
                stderr=subprocess.PIPE,
                pass_fds=[lock.fileno()],
                preexec_fn=ends_with_this_process(),
            )
            return Running(title, folder, process, stack.pop_all())

    def finish(self, run):
        """The log of a run that has ended, or why it failed."""
        status, error = run.end()
        log = read_json(run.folder / "run.json")
        if status == 0 and isinstance(log, dict) and log.get("finished"):
            return log
        if status < 0:
            error = f"ended by {signal.Signals(-status).name}" + (f": {error}" if error else "")
        failed = Failed(status, error or "no finished run.json, and nothing on stderr")
        write_aside(run.folder / "failed.json", json.dumps(failed._asdict()))
        say(f"--- failed: {run.title}: {failed.text()}")
        return failed

    def prepare(self, options, folder):
        """Leaves the folder empty, or with a part of the same run: then True."""
        stamp, mark = self.stamp(options), folder / "command.json"
        found = read_json(mark)
        if found == stamp:
            (folder / "failed.json").unlink(missing_ok=True)
            if not isinstance(read_json(folder / "run.json"), dict):
                (folder / "run.json").unlink(missing_ok=True)
            return True
        old = [path for path in folder.iterdir() if path.name != "lock"]
        if old:
            say(f"{folder}: made anew, {self.difference(found, stamp)}")
        # The stamp goes first and comes last: what is between belongs to no options.
        mark.unlink(missing_ok=True)
        for path in old:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        write_aside(mark, json.dumps(stamp))
        return False


def best_of(log):
    """The best value of the main metric on dev. Where it is undefined (constant predictions), it counts as 0."""
    best = log["best"]
    if best is None:
        return 0.0
    undefined = any(e["metrics"].get(best["metric"]) is None for e in log.get("evaluations", []))
    return max(0.0, best["value"]) if undefined else best["value"]


def spread(values, digits=3):
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


# 0.975 quantiles of Student's t for 1, 2, ... degrees of freedom.
T_QUANTILES = [12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139]
T_QUANTILES += [2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963]
T_QUANTILES += [2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272]


def t_quantile(freedom):
    """The 0.975 quantile for any number of degrees of freedom."""
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    # Fisher's expansion around the normal quantile; beyond the table its error is below 1e-7.
    z, n = 1.959963984540054, freedom
    terms = [
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    ]
    return sum(term / n**power for power, term in enumerate(terms))


def confidence(differences):
    """Mean of paired differences, and the ends of its 95 % confidence interval (None for a single pair)."""
    mean, n = statistics.fmean(differences), len(differences)
    if n < 2:
        return mean, None, None
    half = t_quantile(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return mean, mean - half, mean + half


def interval(differences, digits=3):
    mean, low, high = confidence(differences)
    return f"{mean:+.{digits}f}" + ("" if low is None else f" [{low:+.{digits}f}, {high:+.{digits}f}]")


def markdown(titles, rows):
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def mebibytes(count):
    return f"{count / 2**20:.0f}"
