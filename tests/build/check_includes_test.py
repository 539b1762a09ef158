#!/usr/bin/env python3
"""check_includes.py must find each kind of fault, and accept a tree without any."""

import pathlib
import subprocess
import sys
import tempfile

CHECK = pathlib.Path(__file__).with_name("check_includes.py")
GOOD = {
    "core/view.hpp": "#pragma once\n",
    "top_k.hpp": '#include "core/view.hpp"\n',
    "extras/tensor.hpp": '#include "../top_k.hpp"\n',
    "sparsegrad.hpp": '#include "top_k.hpp"\n#include "extras/tensor.hpp"\n',
}
FAULTS = {
    "arrow goes up": {"core/view.hpp": '#include "../top_k.hpp"\n'},
    "a circle": {"top_k.hpp": '#include "plan.hpp"\n', "plan.hpp": '#include "top_k.hpp"\n'},
    "has 451 lines": {"top_k.hpp": "\n" * 451},
    "no header here": {"top_k.hpp": '#include "gone.hpp"\n'},
    "top_k.hpp includes extras/tensor.hpp": {"top_k.hpp": '#include "extras/tensor.hpp"\n', "extras/tensor.hpp": "\n"},
}


def check(files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = pathlib.Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True)
        return done.returncode, done.stdout


code, text = check(GOOD)
if code != 0:
    sys.exit(f"refused a good tree: {text}")
for fault, files in FAULTS.items():
    code, text = check({**GOOD, **files})
    if code == 0 or fault not in text:
        sys.exit(f"did not find '{fault}': {text}")
print("every fault was found")
