#!/usr/bin/env python3
"""check_markdown.py accepts what keeps its rules and finds each kind of fault, at its line."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import check_markdown

WIDE = "word " * 19 + "seven."  # 101 columns


def faults(*lines):
    return [number for number, _ in check_markdown.faults("\n".join(lines))]


class CheckMarkdown(unittest.TestCase):
    def test_a_line_is_too_wide(self):
        self.assertEqual(len(WIDE), 101)
        self.assertEqual(faults("Text.", "", WIDE), [3])
        self.assertEqual(faults(WIDE[:100]), [])
        self.assertEqual(faults("# " + WIDE), [1])
        self.assertEqual(faults("- " + WIDE[:99]), [1])

    def test_tables_and_fenced_blocks_may_be_wide(self):
        self.assertEqual(faults("| a | " + WIDE + " |", "  | " + WIDE), [])
        self.assertEqual(faults("```", WIDE, "```", WIDE), [4])
        self.assertEqual(faults("````", "```", WIDE, "````", WIDE), [5])

    def test_addresses_do_not_count(self):
        address = "https://example.org/" + "a" * 100
        self.assertEqual(faults(f"See [the page]({address}) and {address}."), [])
        self.assertEqual(faults(f"See [the page]({address}) and {WIDE}"), [1])

    def test_combining_accents_take_no_column(self):
        self.assertEqual(faults("G\u0303" * 100), [])

    def test_an_item_is_too_long(self):
        item = ["- one", *["  more"] * 4]
        self.assertEqual(faults(*item, "- two", *["  more"] * 4, "", "Text."), [])
        self.assertEqual(faults("Text.", "", *item, "  and more"), [3])
        self.assertEqual(faults("1. one", *["   more"] * 5, "2. two"), [1])
        self.assertEqual(faults(*item, "  - inside", "    more"), [])
        self.assertEqual(faults(*["Text."] * 20), [])

    def test_the_program(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "docs" / "results").mkdir(parents=True)
            page = root / "docs" / "results" / "page.md"

            def run():
                command = [sys.executable, check_markdown.__file__, folder]
                result = subprocess.run(command, capture_output=True, text=True)
                return result.returncode, result.stdout

            page.write_text(WIDE)
            for exempt in check_markdown.EXEMPT:
                (root / exempt).write_text(WIDE)
            status, output = run()
            self.assertEqual((status, output), (1, "docs/results/page.md:1: 101 columns, at most 100\n"))
            page.write_text("Text.")
            self.assertEqual(run()[0], 0)


if __name__ == "__main__":
    unittest.main()
