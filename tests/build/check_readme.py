#!/usr/bin/env python3
"""check_readme.py ROOT: what README.md shows is what happens.

The program in README.md is examples/01_quickstart.cpp from its first #include on, the output shown is that of
examples/01_quickstart.out, the one compile line (the line with g++ and 01_quickstart.cpp) works as it stands, and
links to files of the repository lead somewhere.
"""

import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

root = pathlib.Path(sys.argv[1])
readme = (root / "README.md").read_text()
program = root / "examples/01_quickstart.cpp"
expected = root / "examples/01_quickstart.out"
faults = []

source = program.read_text()
source = source[source.index("#include"):].strip()
if source not in readme:
    faults.append("README.md does not show examples/01_quickstart.cpp as it is")

lines = [line.strip().removeprefix("$ ") for line in readme.splitlines() if "g++" in line and program.name in line]
if not lines:
    faults.append("README.md has no compile line: g++ ... examples/01_quickstart.cpp ...")
else:
    command = shlex.split(lines[0].split("&&")[0])
    with tempfile.TemporaryDirectory() as folder:
        binary = f"{folder}/quickstart"
        if "-o" in command:
            command[command.index("-o") + 1] = binary
        else:
            command += ["-o", binary]
        built = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if built.returncode != 0 or built.stderr:
            faults.append(f"{lines[0]}\nended with {built.returncode}:\n{built.stderr}")
        else:
            output = subprocess.run([binary], capture_output=True, text=True, check=True).stdout
            if expected.exists():
                if output != expected.read_text():
                    faults.append(f"the compiled program printed\n{output}not what {expected.name} has")
                if expected.read_text().strip() not in readme:
                    faults.append(f"README.md does not show the output in examples/{expected.name}")

for page in [root / "README.md", *root.glob("docs/**/*.md"), root / "CONTRIBUTING.md", root / "CHANGELOG.md"]:
    # Code has brackets of its own.
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if "://" not in target and not (page.parent / target).exists():
            faults.append(f"{page.relative_to(root)} links to {target}, which is not there")

print("\n".join(faults) or "README.md holds")
sys.exit(1 if faults else 0)
