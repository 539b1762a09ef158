#!/usr/bin/env python3
"""check_markdown.py ROOT: every Markdown page of the project can be read without scrolling sideways.

A line has at most 100 columns and an item of a list at most 5 lines. Tables, fenced blocks and the addresses of links
do not count. EXEMPT are pages that do not keep this yet.
"""

import pathlib
import re
import sys
import unicodedata

MOST_COLUMNS = 100
MOST_ITEM_LINES = 5
FOLDERS = ["docs", "examples", "benchmarks", "tests", "scripts", "python"]
EXEMPT = ()

FENCE = re.compile(r"\s*(`{3,}|~{3,})")
ITEM = re.compile(r"\s*([-*+]|\d+[.)])\s")
ADDRESS = re.compile(r"(?<=\]\()[^)\s]*(?=\))|https?://[^\s)>]*")


def columns(line):
    """Width without addresses; accents that stand on the letter before them take none."""
    return sum(not unicodedata.combining(c) for c in ADDRESS.sub("", line.rstrip()))


def faults(text):
    """Yields (line number, what is wrong) of a page."""
    fence = ""  # the characters that opened the block around the line
    item = lines_of_item = 0  # where the item around the line begins, 0: none
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
            continue
        prose = bool(line.strip()) and not mark and not line.lstrip().startswith("|")
        begins_item = prose and ITEM.match(line)
        if item and (not prose or begins_item):
            if lines_of_item > MOST_ITEM_LINES:
                yield item, f"a list item of {lines_of_item} lines, at most {MOST_ITEM_LINES}"
            item = 0
        if begins_item:
            item, lines_of_item = number, 0
        lines_of_item += 1
        if mark:
            fence = mark[1]
        elif prose and columns(line) > MOST_COLUMNS:
            yield number, f"{columns(line)} columns, at most {MOST_COLUMNS}"


def main():
    root = pathlib.Path(sys.argv[1])
    pages = [*root.glob("*.md"), *(page for folder in FOLDERS for page in (root / folder).rglob("*.md"))]
    found = []
    for page in sorted(pages):
        name = page.relative_to(root).as_posix()
        if name not in EXEMPT:
            found += [f"{name}:{number}: {fault}" for number, fault in faults(page.read_text(encoding="utf-8"))]
    print("\n".join(found) or f"{len(pages)} pages hold, but for those exempt: {', '.join(EXEMPT) or 'none'}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
