#!/usr/bin/env python3
"""check_snippets_test.py CXX: check_snippets.py finds code that does not compile, in pages and in headers."""

import pathlib
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).parent
good_page = "# A page\n\n```cpp\n#include <vector>\nstd::vector<int> v(3);\nv.at(0) = 1;\n```\n"
good_header = "#pragma once\n/// A class.\n///\n///     int n = 1;\n///     n += 2;\nstruct A {};\n"
prose = "// Not code:\n//     P = G + E    {1, 2}\n"


def outcome(page, header):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "include").mkdir()
        (root / "docs").mkdir()
        (root / "README.md").write_text("# Nothing\n")
        (root / "docs/page.md").write_text(page)
        (root / "include/a.hpp").write_text(header + prose)
        checker = root / "check_snippets.py"
        checker.write_text((here / "check_snippets.py").read_text())
        (root / "snippet_context.hpp").write_text("#pragma once\nnamespace snippets {}\n")
        result = subprocess.run([sys.executable, str(checker), str(root), sys.argv[1]], capture_output=True, text=True)
        return result.returncode, result.stdout


faults = []


def expect(name, page, header, code, text):
    found, output = outcome(page, header)
    if found != code or text not in output:
        faults.append(f"{name}: ended with {found}, expected {code} and \"{text}\" in\n{output}")


expect("good", good_page, good_header, 0, "2 snippets and 0 in C compile; 0 call CUDA")
expect("a page", good_page.replace("at(0)", "att(0)"), good_header, 1, "docs/page.md:6:")
expect("a header", good_page, good_header.replace("n += 2", "m += 2"), 1, "include/a.hpp:5:")
expect("CUDA", good_page.replace("v.at(0) = 1;", "cudaGraphLaunch(v, 1);"), good_header, 0,
       "1 snippets and 0 in C compile; 1 call CUDA")
expect("nothing", "# A page\n", "#pragma once\n", 1, "0 snippets and 0 in C compile")
print("\n".join(faults) or "check_snippets.py finds faults")
sys.exit(1 if faults else 0)
