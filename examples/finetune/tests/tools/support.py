"""What the tests of the tools share."""

import csv
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / "tools"
FAKE = HERE / "fake_program.py"
sys.path.insert(0, str(TOOLS))

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
HAS_OPTUNA = importlib.util.find_spec("optuna") is not None
needs_matplotlib = unittest.skipUnless(HAS_MATPLOTLIB, "matplotlib is missing (scripts/setup.sh --python installs it)")
needs_optuna = unittest.skipUnless(HAS_OPTUNA, "optuna is missing (scripts/setup.sh --python installs it)")

# Under load a start of Python takes seconds; nothing waits so long where all is well.
PATIENCE = 120


class FolderCase(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)
        self.calls = self.folder / "calls"

    def environment(self, **fake):
        own = {name: value for name, value in os.environ.items() if not name.startswith("FAKE_")}
        return {**own, "FAKE_CALLS": str(self.calls), "PYTHONDONTWRITEBYTECODE": "1", **fake}

    def start(self, script, words, cwd=None, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **fake):
        """A script of tools/ as a process."""
        return subprocess.Popen(
            [sys.executable, str(TOOLS / script), *map(str, words)],
            env=self.environment(**fake),
            cwd=cwd,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def call(self, script, words, status=0, **options):
        """What a script prints, having ended with the status."""
        process = self.start(script, words, **options)
        try:
            text, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        self.assertEqual(process.returncode, status, text)
        return text

    def lines(self, kind=""):
        """[kind, process, folder, ...] of what the fake program did."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [line.split(" ") for line in lines if line.startswith(kind)]

    def wait_for(self, condition, what):
        give_up = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), give_up, f"waited in vain for {what}")
            time.sleep(0.005)


def is_running(pid):
    """A process that nobody has waited for yet does not run."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows_of(path):
    with open(path, newline="") as sheet:
        return list(csv.DictReader(sheet))


def markdown_table(text, first):
    """{name of the row: {title: cell}} of the table whose first title is given."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    titles = [cell.strip() for cell in lines[at].strip("|").split("|")]
    rows = {}
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0]] = dict(zip(titles[1:], cells[1:]))
    return rows
