#!/usr/bin/env python3
"""Markdown as GitHub reads it, for Doxygen: markdown_filter.py PAGE.md > filtered

Doxygen 1.9.4 gives headings no ids by which a link could name them, and follows links only to pages
among its own input. The filter
  - gives every page and heading an id, PAGE and PAGE_HEADING, by GitHub's rule for anchors;
  - turns links to pages and headings of the reference into references to those ids;
  - turns other relative links (to sources, tables of results, scripts) into their text.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADING = re.compile(r"^#{1,6} (.*)$")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def anchor(heading):
    """GitHub's anchor of a heading: lower case, no punctuation, hyphens for spaces."""
    text = LINK.sub(r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def page_id(path):
    """Id of a page of the reference, or None where a path is no page of it."""
    if path == ROOT / "README.md":
        return "readme"
    if path.suffix != ".md" or not path.is_relative_to(ROOT / "docs") or not path.is_file():
        return None
    return "page-" + "-".join(path.relative_to(ROOT / "docs").with_suffix("").parts)


def link(page, match):
    """A link of `page` as Doxygen resolves it."""
    text, target = match.groups()
    if re.match(r"[a-z]+:", target):
        return match.group(0)
    path, _, fragment = target.partition("#")
    to = page_id((page.parent / path).resolve() if path else page)
    if to is None:
        return text
    return f"[{text}](@ref {to}{'_' + fragment if fragment else ''})"


def headed(page, text):
    """The text with an id at every heading."""
    seen = {}
    lines = text.split("\n")
    fenced = False
    for number, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        heading = None if fenced else HEADING.match(line)
        if heading is None:
            continue
        name = anchor(heading.group(1))
        first = not seen
        seen[name] = seen.get(name, -1) + 1
        if seen[name]:
            name += f"-{seen[name]}"
        lines[number] = f"{line} {{#{page_id(page)}{'' if first else '_' + name}}}"
    return "\n".join(lines)


def filtered(page):
    """The page for Doxygen, line by line that of the file."""
    parts = FENCED.split(headed(page, page.read_text(encoding="utf-8")))
    parts[::2] = [LINK.sub(lambda match: link(page, match), part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(filtered(pathlib.Path(sys.argv[1]).resolve()))
