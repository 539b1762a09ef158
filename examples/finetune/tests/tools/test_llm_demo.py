"""tools/llm_demo.py over a program that imitates sparsegrad-llm, and the questions of word_problems.py."""

import json
import re
import unittest

from support import HERE, FolderCase, markdown_table, needs_matplotlib

from word_problems import word_problems

FAKE_LLM = HERE / "fake_llm.py"


class Demo(FolderCase):
    def demo(self, *more, status=0, **fake):
        words = ["--program", FAKE_LLM, "--model", "base.gguf", "--output", self.folder / "demo", *more]
        return self.call("llm_demo.py", words, status, **fake)

    def data(self, records):
        path = self.folder / "data.json"
        path.write_text(json.dumps(records))
        return path

    def part(self, name):
        text = (self.folder / "demo" / "data" / f"{name}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def test_table_sentence_example_and_adapters(self):
        text = self.demo()
        table = markdown_table((self.folder / "demo" / "table.md").read_text(), "run")
        row = table["sparse (default)"]
        self.assertEqual((row["loss before"], row["loss after"]), ("1.500", "0.500"))
        self.assertEqual((row["right before"], row["right after"]), ("4 of 40", "30 of 40"))
        self.assertEqual((row["seconds"], row["peak MiB"], row["numbers trained"]), ("23", "400", "1000"))
        self.assertEqual(table["LoRA, rank 16"]["numbers trained"], "500")
        self.assertEqual(table["nothing trained (control)"]["loss after"], "1.500")
        self.assertEqual(table["nothing trained (control)"]["right after"], "4 of 40")
        self.assertIn("answers 30 of 40 questions rightly where it answered 4 before; LoRA comes to 0.50 and 30", text)
        self.assertIn("the control, of which nothing trains, stays as it was.", text)
        self.assertNotIn("chance", text)
        self.assertIn("before training:\n  I do not know", text)
        self.assertIn("adapter.gguf (0.1 MB, gguf-lora)", text)
        # What is finished is not repeated.
        runs = len(self.lines("train"))
        self.demo()
        self.assertEqual(len(self.lines("train")), runs)

    def test_nothing_of_what_is_held_out_is_trained_on(self):
        self.demo()
        held, train = (
            {record["question"] for record in self.part(name)} for name in ("held", "train")
        )
        self.assertEqual((len(held), len(train), len(held & train)), (64, 400, 0))
        for words in self.lines("train"):
            self.assertIn("held.jsonl", words[words.index("--validation") + 1])

    def test_a_difference_that_chance_explains_is_called_so(self):
        self.assertIn("a difference that chance may explain", self.demo(FAKE_RIGHT="6"))

    def test_a_failed_run_is_told_and_left_out(self):
        text = self.demo(status=1, FAKE_FAIL="runs/lora")
        self.assertIn("| LoRA, rank 16 | failed |", text)
        self.assertNotIn("LoRA comes to", text)
        self.assertIn("the sparse run failed", self.demo("--output", self.folder / "two", status=1, FAKE_FAIL="runs/sparse"))

    def test_own_data(self):
        records = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(200)]
        self.demo("--data", self.data(records))
        held = self.part("held")
        self.assertEqual(len(held), 64)
        self.assertTrue(all(record in records for record in held))
        self.assertIn("--ask is 65, expected 1 to 64", self.demo("--ask", 65, status=2))
        text = self.demo("--data", self.data(records[:100]), status=1)
        self.assertIn("--data has 100 records, expected at least 128", text)
        (self.folder / "torn.jsonl").write_text('{"question": ')
        self.assertIn("expected JSON lines", self.demo("--data", self.folder / "torn.jsonl", status=1))

    @needs_matplotlib
    def test_curves(self):
        self.demo()
        self.assertTrue((self.folder / "demo" / "curves.png").read_bytes().startswith(b"\x89PNG"))


class WordProblems(FolderCase):
    def test_results_are_right_and_questions_differ(self):
        problems = word_problems(1000, 7)
        self.assertEqual(len({problem["question"] for problem in problems}), 1000)
        for problem in problems:
            steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", problem["answer"])
            self.assertGreaterEqual(len(steps), 2)
            for a, sign, b, result in steps:
                a, b = int(a), int(b)
                self.assertEqual({"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign], int(result))
            self.assertTrue(problem["answer"].endswith(f"\n#### {steps[-1][3]}"))

    def test_a_seed_gives_one_file(self):
        files = [self.folder / name for name in ("a", "b", "c")]
        for file, seed in zip(files, (1, 1, 2)):
            self.call("word_problems.py", [file, "--count", 20, "--seed", seed])
        self.assertEqual(files[0].read_bytes(), files[1].read_bytes())
        self.assertNotEqual(files[0].read_bytes(), files[2].read_bytes())
        self.assertIn("expected 1 to 100000", self.call("word_problems.py", [files[0], "--count", 0], 2))


if __name__ == "__main__":
    unittest.main()
