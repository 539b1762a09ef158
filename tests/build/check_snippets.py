#!/usr/bin/env python3
"""check_snippets.py ROOT CXX [FLAG...]: the C++ and the C that the documentation shows compile.

Snippets are the ```cpp blocks of README.md, docs/ and examples/README.md, and in comments of headers the indented
paragraphs (five spaces) of which a line ends in a semicolon or an opening brace. Each is a function of its own, with the names
of snippet_context.hpp. Those that call CUDA itself are left out and counted. C stands in ```c blocks and in
comments of .h files, with the names of snippet_context.h; what begins with `static` stands outside of functions. FLAGs are the compiler's, as -isystem DIR.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

root = pathlib.Path(sys.argv[1])
# The system's own folder stays where it is in the order: <cmath> looks for the <math.h> behind it.
compiler = [flag for flag in sys.argv[2:] if flag != "-isystem/usr/include"]
context = pathlib.Path(__file__).parent / "snippet_context.hpp"


def of_page(path, language="cpp"):
    """(line, text) of each block in a language."""
    text = path.read_text()
    for block in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, block.start(1)) + 1, block.group(1)


def of_header(path):
    """(line, text) of each paragraph of code in a comment."""
    paragraph = []
    for number, line in enumerate([*path.read_text().splitlines(), ""], 1):
        code = re.match(r"\s*///?     (\s*\S.*)$", line)
        if code:
            paragraph.append((number, code.group(1)))
            continue
        text = "\n".join(code for _, code in paragraph)
        if re.search(r"[;{]\s*(//.*)?$", text, re.MULTILINE):
            yield paragraph[0][0], text + "\n"
        paragraph = []


def snippets():
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md")), root / "examples/README.md"]
    for page in pages:
        if page.exists():
            yield from ((page, line, text) for line, text in of_page(page))
    for header in sorted((root / "include").rglob("*.*")):
        if header.suffix == ".h":
            continue
        yield from ((header, line, text) for line, text in of_header(header))


def c_snippets():
    for page in sorted((root / "docs").rglob("*.md")):
        yield from ((page, line, text) for line, text in of_page(page, "c"))
    for header in sorted((root / "include").rglob("*.h")):
        yield from ((header, line, text) for line, text in of_header(header))


def c_program(all_snippets):
    """The same in C."""
    parts = [f'#include "{context.with_suffix(".h")}"']
    for number, (path, line, text) in enumerate(all_snippets):
        place = f'#line {line} "{path.relative_to(root)}"\n'
        outside = re.search(r"^static ", text, re.MULTILINE)
        parts.append(f"{place}{text}" if outside else f"void snippet_{number}(void);\nvoid snippet_{number}(void) {{\n{place}{text}}}\n")
    return "\n".join(parts)


def program(all_snippets):
    """One source of all snippets; #line leads a message back to the page."""
    includes = [f'#include "{context}"']
    functions = []
    for number, (path, line, text) in enumerate(all_snippets):
        includes += re.findall(r"^#include .*$", text, re.MULTILINE)
        body = re.sub(r"^#include .*$", "", text, flags=re.MULTILINE)
        place = f'#line {line} "{path.relative_to(root)}"\n'
        if re.search(r"^int main\(", body, re.MULTILINE):
            functions.append(f"namespace snippet_{number} {{\n{place}{body}}}\n")
        else:
            functions.append(f"namespace snippets {{\nvoid snippet_{number}() {{\n{place}{body}}}\n}}\n")
    return "\n".join([*includes, *functions])


found = list(snippets())
cuda = [s for s in found if re.search(r"\bcuda[A-Z]\w*\(|_cuda\.cuh", s[2])]
has_mpi = any(pathlib.Path(flag.removeprefix("-isystem"), "mpi.h").exists() for flag in compiler[1:])
mpi = [] if has_mpi else [s for s in found if re.search(r"\bMPI_|\bMpi", s[2])]
compiled = [s for s in found if s not in cuda and s not in mpi]
in_c = list(c_snippets())


def must_compile(text, suffix, flags):
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / f"snippets{suffix}"
        source.write_text(text)
        command = [*compiler, *flags, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused",
                   "-Wno-unused-parameter", "-Wno-return-type", "-I", str(root / "include"), str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        print("\n".join(result.stderr.splitlines()[:60]))
        print("code that the documentation shows does not compile (names that it may take for given: snippet_context.hpp, .h)")
        sys.exit(1)


if len(sys.argv) > 2 and in_c:
    must_compile(c_program(in_c), ".c", ["-x", "c", "-std=c11", "-fopenmp"])
if len(sys.argv) > 2 and compiled:
    must_compile(program(compiled), ".cpp", ["-std=c++20", "-fopenmp"])
print(f"{len(compiled)} snippets and {len(in_c)} in C compile; {len(cuda)} call CUDA and were left out" + (f"; {len(mpi)} for want of MPI" if mpi else ""))
sys.exit(0 if compiled else 1)
