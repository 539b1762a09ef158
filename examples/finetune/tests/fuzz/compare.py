#!/usr/bin/env python3
"""compare.py [--grown DIR] [--limit N]
Takes the fuzz corpora to the packages `tokenizers` and `safetensors` (pip install tokenizers safetensors) as well as to the
program's readers and compares what is accepted and the values. DIR is the work folder of scripts/fuzz.sh (build/fuzz-runs).
Build the readers first: cmake --build build/finetune-fuzz --target fuzz_read_files.

A difference is: both accept and read different values; the program accepts what the package refuses; or, for safetensors,
the reverse. What the program's tokenizers refuse and the package accepts is counted by reason: they are for two models
alone. Exit status 1 if there are differences."""
import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import safetensors
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

here = pathlib.Path(__file__).resolve().parent
root = here.parents[3]
golden = here.parent / "golden" / "glue"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--grown", type=pathlib.Path, default=root / "build/fuzz-runs")
parser.add_argument("--limit", type=int, default=5000, help="most inputs of a target")
options = parser.parse_args()

reader = subprocess.Popen([root / "build/finetune-fuzz/tests/fuzz/fuzz_read_files"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True)
differences = 0


def ours(*words):
    reader.stdin.write(" ".join(map(str, words)) + "\n")
    reader.stdin.flush()
    return json.loads(reader.stdout.readline())


def inputs(target, committed):
    files = [f for folder in (committed / "corpus" / target, options.grown / "corpus" / target) if folder.is_dir()
             for f in sorted(folder.iterdir())]
    return files[:options.limit]


def differ(file, what):
    global differences
    differences += 1
    if differences <= 50:
        print(f"  {file}: {what}"[:400])


def report(target, count):
    print(f"{target}: " + ", ".join(f"{name} {number}" for name, number in sorted(count.items())))


def compare_safetensors():
    count = collections.Counter()
    for file in inputs("safetensors", root / "tests/fuzz"):
        found = ours("safetensors", file)
        try:
            theirs = {name: [t["dtype"], t["shape"], bytes(t["data"]).hex()]
                      for name, t in safetensors.deserialize(file.read_bytes())}
        except Exception as error:  # SafetensorError, and what the package raises for names that are no UTF-8
            theirs = str(error)
        if isinstance(theirs, str) and "error" in found:
            count["both refuse"] += 1
        elif isinstance(theirs, str):
            differ(file, f"the package alone refuses: {theirs}")
        elif "error" in found:
            differ(file, f"the program alone refuses: {found['error']}")
        elif found["tensors"] != theirs:
            differ(file, f"{found['tensors']}, expected {theirs}")
        else:
            count["equal"] += 1
    report("safetensors", count)


def encoded(tokenizer, text):
    """The ids, or None where the package panics: a special token of a template that "special_tokens" does not have."""
    try:
        return tokenizer.encode(text).ids
    except BaseException as error:  # a panic in the package's Rust is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


def compare_files(target, parts_of):
    """parts_of(input) -> (files of a folder, text, tokenizer of the package or the reason why it refuses)"""
    count, reasons = collections.Counter(), collections.Counter()
    for file in inputs(target, here):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            files, text, theirs = parts_of(file.read_bytes(), folder)
            for name, content in files.items():
                (folder / name).write_bytes(content)
            (folder / "text").write_bytes(text)
            found = ours("tokenizer", folder, folder / "text")
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            decoded = None
        if "error" in found:
            if isinstance(theirs, str):
                count["both refuse"] += 1
            else:
                count["the program alone refuses"] += 1
                reasons[re.sub(r'"[^"]*"|\d+', "*", found["error"].split(": ", 1)[-1])[:90]] += 1
        elif isinstance(theirs, str):
            differ(file, f"the package alone refuses: {theirs}")
        elif decoded is None or "text_error" in found:
            if (decoded is None) != ("text_error" in found):
                differ(file, f"a text: {found}")
            count["text that is not UTF-8"] += 1
        elif theirs.post_processor is None:
            count["without post_processor, where the program puts its model's special tokens"] += 1
        elif (expected := encoded(theirs, decoded)) is None:
            count["the package panics when it encodes"] += 1
        elif found["ids"] != expected:
            differ(file, f"{decoded!r} is {found['ids']}, expected {expected}")
        else:
            count["equal"] += 1
    report(target, count)
    for reason, number in reasons.most_common(12):
        print(f"    {number:5} {reason}")


def of_tokenizer_json(data, folder):
    parts = (data.split(b"\x1e", 4) + [b""] * 5)[:5]
    try:
        theirs = tokenizers.Tokenizer.from_str(parts[0].decode())
        theirs.no_truncation()
        theirs.no_padding()
    except BaseException as error:  # a panic in the package's Rust is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        theirs = str(error)
    return {"tokenizer.json": parts[0]}, parts[4], theirs


def fixed(model, files, **parts):
    theirs = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(theirs, name, part)
    return lambda data, folder: (files, data.split(b"\x1e")[0], theirs)


def word_piece():
    content = (golden / "small_vocab.txt").read_bytes()
    vocab = {token: i for i, token in enumerate(content.decode().rstrip("\n").split("\n"))}
    make = fixed(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100), {"vocab.txt": content},
                 normalizer=normalizers.BertNormalizer(), pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
                 post_processor=processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"])))
    make(b"", None)[2].add_special_tokens([t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t in vocab])
    return make


def byte_bpe():
    files = {name: (golden / "small_bpe" / name).read_bytes() for name in ("vocab.json", "merges.txt")}
    vocab = json.loads(files["vocab.json"])
    model = models.BPE.from_file(str(golden / "small_bpe/vocab.json"), str(golden / "small_bpe/merges.txt"))
    make = fixed(model, files, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
                 post_processor=processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]),
                                                             trim_offsets=False, add_prefix_space=False))
    special = [tokenizers.AddedToken(t, lstrip=t == "<mask>", normalized=False)
               for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    make(b"", None)[2].add_special_tokens(special)
    return make


compare_safetensors()
compare_files("tokenizer_json", of_tokenizer_json)
print("text, by WordPiece and by byte-level BPE:")
compare_files("text", word_piece())
compare_files("text", byte_bpe())
reader.stdin.close()
print(f"{differences} differences" + (", the first 50 above" if differences > 50 else ""))
sys.exit(differences > 0)
