#!/usr/bin/env python3
"""Checks by hand that llama.cpp computes what sparsegrad-llm does from the files that it exports of a run.

    check_llama_cpp.py --program sparsegrad-llm --run OUT --data FILE [--questions 8] [--tokens 48] [--threads 1]

1. OUT/model as GGUF in F32, F16, BF16 and Q8_0: the loss on the answers of FILE's first questions, and the greedy answers,
   by llama.cpp with its own tokenizer and the file's chat template, beside `evaluate` and `generate` on the same file.
2. The model that the run began from with the run's GGUF LoRA beside it, against the merged model in F32.

llama.cpp multiplies in the file's type: it rounds the activations to 16 bits or to Q8_0 where the program keeps float, so that
losses agree to the type's rounding, and answers to the first token that it decides. In F32 they must be equal.
FILE has JSON lines of question and answer. Needs: pip install llama-cpp-python (which compiles llama.cpp).
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

POSITIONS = 1024
# The largest difference of the losses that rounding the activations may make.
LOSSES = {"float": 2e-4, "fp16": 2e-3, "bf16": 1e-2, "q8_0": 2e-2}


class LlamaCpp:
    def __init__(self, a, path, **more):
        f32 = llama_cpp.GGML_TYPE_F32
        self.model = llama_cpp.Llama(str(path), n_ctx=POSITIONS, n_threads=a.threads, n_threads_batch=a.threads, logits_all=True,
                                     verbose=False, type_k=f32, type_v=f32, **more)
        token = lambda number: self.model._model.token_get_text(number) if number >= 0 else ""
        template = self.model.metadata["tokenizer.chat_template"]
        self.end = self.model.token_eos()
        self.formatter = Jinja2ChatFormatter(template, eos_token=token(self.end), bos_token=token(self.model.token_bos()))

    def prompt(self, question):
        text = self.formatter(messages=[{"role": "user", "content": question}]).prompt
        return self.model.tokenize(text.encode(), add_bos=False, special=True)

    def loss(self, rows):
        """(mean over all tokens of answers and the tokens that end them, the logits at those places)"""
        total, count, kept = 0.0, 0, []
        for question, answer in rows:
            asked = self.prompt(question)
            answered = [*self.model.tokenize(answer.encode(), add_bos=False, special=False), self.end]
            self.model.reset()
            self.model.eval([*asked, *answered])
            logits = np.array(self.model.scores[len(asked) - 1 : len(asked) + len(answered) - 1], np.float64)
            shifted = logits - logits.max(axis=1, keepdims=True)
            total += (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(answered)), answered]).sum()
            count += len(answered)
            kept.append(logits)
        return total / count, np.concatenate(kept), count

    def answer(self, question, tokens):
        self.model.reset()
        written = []
        for token in self.model.generate(self.prompt(question), temp=0.0, top_k=1):
            if token == self.end or len(written) == tokens:
                break
            written.append(token)
        return self.model.detokenize(written).decode(errors="replace")


def program(a, *words):
    done = subprocess.run([a.program, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}\nended with status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def own_loss(a, model, data):
    text = program(a, "evaluate", "--model", model, "--data", data, "--dev-limit", a.questions, "--threads", a.threads, "--quiet")
    return float(re.search(r"^loss (\S+)$", text, re.MULTILINE)[1])


def own_answer(a, model, question):
    words = ["--prompt", question, "--max-new-tokens", a.tokens, "--threads", a.threads]
    return program(a, "generate", "--model", model, *words)


def common(one, other):
    """Characters that two texts begin with alike."""
    return next((n for n, (x, y) in enumerate(zip(one, other)) if x != y), min(len(one), len(other)))


def compare_answers(a, what, ours, theirs, must):
    alike = [one.strip() == other.strip() for one, other in zip(ours, theirs)]
    until = [f"{common(one.strip(), other.strip())} of {len(one.strip())}" for one, other in zip(ours, theirs)]
    print(f"{what}: {sum(alike)} of {len(alike)} greedy answers equal; equal characters: {', '.join(until)}", flush=True)
    return all(alike) or not must


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="output of a run of lora, or of sparse with one side of a rank")
    parser.add_argument("--data", required=True)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--answers", type=int, default=3, help="questions that are answered greedily")
    parser.add_argument("--tokens", type=int, default=48, help="of a greedy answer")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    with open(a.data, encoding="utf-8") as file:
        records = [json.loads(line) for _, line in zip(range(a.questions), file)]
    rows = [(record["question"], record["answer"]) for record in records]
    questions = [question for question, _ in rows[: a.answers]]
    base = json.loads((a.run / "run.json").read_text())["options"]["model"]
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        data = folder / "data.jsonl"
        data.write_text("".join(json.dumps(record) + "\n" for record in records))

        def export(model, name, *words):
            program(a, "export", "--model", model, "--output", folder / name, "--quiet", *words)
            return folder / name

        for dtype, most in LOSSES.items():
            file = export(a.run / "model", f"{dtype}.gguf", "--format", "gguf", "--save-dtype", dtype)
            theirs = LlamaCpp(a, file)
            loss, logits, count = theirs.loss(rows)
            ours = own_loss(a, file, data)
            print(f"{dtype}: loss {loss:.6f} of {count} tokens, the program's {ours:.6f}, difference {loss - ours:+.1e}, at most {most:g}", flush=True)
            answers = [theirs.answer(question, a.tokens) for question in questions]
            fine &= abs(loss - ours) <= most
            fine &= compare_answers(a, dtype, [own_answer(a, file, question) for question in questions], answers, dtype == "float")
            if dtype == "float":
                merged, merged_logits, merged_answers = loss, logits, answers
            del theirs
        base_file = export(base, "base.gguf", "--format", "gguf", "--save-dtype", "float")
        adapter = export(a.run / "model", "adapter.gguf", "--format", "gguf-lora")
        before, before_logits, _ = LlamaCpp(a, base_file).loss(rows)
        beside = LlamaCpp(a, base_file, lora_path=str(adapter))
        loss, logits, _ = beside.loss(rows)
        error, change = abs(logits - merged_logits).max(), abs(before_logits - merged_logits).max()
        print(f"GGUF LoRA: loss {loss:.6f}, merged {merged:.6f}, without {before:.6f}; logits differ by {error:.1e}, the run changed them by {change:.1e}")
        fine &= error <= 1e-3 * change + 1e-3
        fine &= compare_answers(a, "GGUF LoRA", merged_answers, [beside.answer(question, a.tokens) for question in questions], True)
    print("all as expected" if fine else "NOT as expected")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
