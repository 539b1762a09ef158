#!/usr/bin/env python3
"""Writes word problems of arithmetic with their solutions: JSON lines of question and answer.

    word_problems.py FILE [--count N] [--seed S]

All answers have one form, that of GSM8K: the steps in sentences, and behind "####" the result. Which of the stories is
told, and its names, things and numbers are drawn; no question is there twice, and equal seeds give equal files.
"""

import argparse
import json
import pathlib
import random
import sys

from glue_runs import run_tool, write_aside

NAMES = ["Ada", "Ben", "Chloe", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kate", "Leo", "Maya", "Noah"]
THINGS = ["apples", "books", "cards", "pencils", "stickers", "marbles", "shells", "buttons", "stamps", "beads"]


def bags(draw, name, thing):
    has, count, each = draw(3, 20), draw(2, 9), draw(2, 9)
    more = count * each
    return (
        f"{name} has {has} {thing} and buys {count} bags with {each} {thing} each. How many {thing} does {name} have now?",
        f"{name} buys {count} * {each} = {more} {thing}. Now {name} has {has} + {more} = {has + more} {thing}.",
        has + more,
    )


def sale(draw, name, thing):
    sold, price = draw(3, 12), draw(2, 9)
    left = draw(2, 15)
    return (
        f"{name} had {sold + left} {thing} and sold all but {left} of them for {price} dollars each. How many dollars did "
        f"{name} get?",
        f"{name} sold {sold + left} - {left} = {sold} {thing}. That gave {sold} * {price} = {sold * price} dollars.",
        sold * price,
    )


def friends(draw, name, thing):
    count, each, kept = draw(2, 8), draw(2, 9), draw(1, 9)
    given = count * each
    return (
        f"{name} has {given + kept} {thing}, keeps {kept} and shares the rest equally among {count} friends. How many "
        f"{thing} does each friend get?",
        f"{name} shares {given + kept} - {kept} = {given} {thing}. Each friend gets {given} / {count} = {each} {thing}.",
        each,
    )


def savings(draw, name, thing):
    weekly, weeks = draw(3, 9), draw(3, 9)
    total = weekly * weeks
    spent = draw(1, total - 1)
    return (
        f"{name} saves {weekly} dollars a week for {weeks} weeks and then spends {spent} dollars on {thing}. How many dollars "
        "are left?",
        f"{name} saves {weekly} * {weeks} = {total} dollars. Then {total} - {spent} = {total - spent} dollars are left.",
        total - spent,
    )


def boxes(draw, name, thing):
    count, each, lost = draw(2, 9), draw(3, 9), draw(1, 5)
    total = count * each
    return (
        f"There are {count} boxes with {each} {thing} each. {name} takes {lost} {thing} away. How many {thing} are left in "
        "all boxes together?",
        f"The boxes hold {count} * {each} = {total} {thing}. After that {total} - {lost} = {total - lost} {thing} are left.",
        total - lost,
    )


STORIES = [bags, sale, friends, savings, boxes]


def word_problems(count, seed):
    """[{question, answer}, ...], all different."""
    generator = random.Random(seed)
    problems, seen = [], set()
    while len(problems) < count:
        story = STORIES[len(problems) % len(STORIES)]
        question, steps, result = story(generator.randint, generator.choice(NAMES), generator.choice(THINGS))
        if question not in seen:
            seen.add(question)
            problems.append({"question": question, "answer": f"{steps}\n#### {result}"})
    generator.shuffle(problems)
    return problems


def json_lines(records):
    return "".join(json.dumps(record) + "\n" for record in records)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args()
    if not 1 <= arguments.count <= 100000:
        parser.error(f"--count is {arguments.count}, expected 1 to 100000")
    write_aside(arguments.file, json_lines(word_problems(arguments.count, arguments.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
