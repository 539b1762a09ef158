#!/usr/bin/env python3
"""Writes tests/golden/causal/: a byte-level BPE trained on this script's strings, as tokenizer.json with the pattern of
each model (gpt2, smollm2, llama3, qwen2) and as smollm2.gguf, and strings.json, the ids of hard strings as the package
`tokenizers` has them, with their text again. Of a SentencePiece model likewise: sentencepiece/tokenizer.model,
sentencepiece.gguf and sentencepiece.json, ids and texts as the package `sentencepiece` has them. Needs: pip install tokenizers
gguf sentencepiece (0.23.3, 0.19.0, 0.2.3)."""
import ast
import io
import json
import pathlib

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre
from tokenizers.models import BPE

here = pathlib.Path(__file__).resolve().parent
folder = here / "causal"
folder.mkdir(exist_ok=True)


def lists(names):
    """Lists of strings of make_tokenizer_goldens.py, which has imports of its own."""
    found = {}
    for node in ast.parse((here / "make_tokenizer_goldens.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id in names:
            exec(compile(ast.Module([node], []), "lists", "exec"), found)
    return [text for name in names for text in found[name]]


STRINGS = [text for text in lists(["HARD", "ROBERTA_HARD"]) if len(text) < 150] + [
    "I'Ll WE'VE 'S\u017f '\u017f'\u017fa a'LL 1'S 'd've", "x=1234567 12,345.678 a1b22c333d4444", "!!\n\n\nabc !\r\n\r\n", "foo();\r\n\r\n  bar",
    "a\n \n b", "  \n  a", "\t\thello \t world\u2003hello \u2003 hello", "(hello) [x] -world 'hello", "\u0301hello e\u0301 A\u030a \u1e9b\u0323 \u0344",
    "\u1100\u1161\u11a8 \uac00\u11a8", "a\U00011de0\U00011de1b \U00016ff4\U00016ff5", "\x04\x06a\x13\x14", "<|im_start|>user\n2 + 2 = 4<|im_end|>\n",
    "<|im_start|><|end|> a<|im_end|><|im_", "<tool>hello</tool> <TOOL> s\u0323<s\u0323>", "\U00040000\U0010ffff",
]
TRAINING = STRINGS + ["the user and the answer are hello world 12 345 it's we've", "don't I'M hello Hello HELLO"] * 20

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")


def split(regex):
    return pre.Sequence([pre.Split(Regex(regex), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)])


PATTERNS = {
    "gpt2": pre.ByteLevel(add_prefix_space=False),
    "smollm2": pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]),
    "llama3": split(LLAMA3),
    "qwen2": split(QWEN2),
}
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]

trained = Tokenizer(BPE())
trained.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
trained.train_from_iterator(TRAINING, trainers.BpeTrainer(
    vocab_size=480, special_tokens=SPECIAL, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False))
model = json.loads(trained.to_str())["model"]
merges = [tuple(merge) for merge in model["merges"]]

goldens = {"strings": STRINGS, "tokenizers": {}}
for name, pattern in PATTERNS.items():
    vocabulary = dict(model["vocab"])
    if name == "smollm2":  # as SmolLM2's, it lacks bytes that are seldom
        for byte in ("\u0104", "\u0106"):
            vocabulary["unused" + byte] = vocabulary.pop(byte)
    if name == "llama3":  # words that no merges give
        vocabulary |= {"Ġhellohello": len(vocabulary), "xx": len(vocabulary) + 1}
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=name == "llama3"))
    tokenizer.pre_tokenizer = pattern
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    if name == "llama3":
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
            single="<|end|> $A", pair="<|end|> $A $B", special_tokens=[("<|end|>", 0)])])
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<s\u0323>", normalized=True)])
    (folder / name).mkdir(exist_ok=True)
    tokenizer.save(str(folder / name / "tokenizer.json"))
    out = {}
    for kind in ("parsed", "plain"):
        tokenizer.encode_special_tokens = kind == "plain"
        out[kind] = [tokenizer.encode(text, add_special_tokens=False).ids for text in STRINGS]
    out["decoded"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in out["parsed"]]
    goldens["tokenizers"][name] = out
    if name == "smollm2":
        writer = gguf.GGUFWriter(folder / "smollm2.gguf", "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        tokens = sorted(vocabulary, key=vocabulary.get)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
        writer.add_eot_token_id(0)
        writer.add_chat_template("{% for message in messages %}...")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "special": True}, "pad_token": "<|end|>",
          "chat_template": "{{ messages }}"}
(folder / "smollm2" / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
(folder / "smollm2" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}) + "\n")
for path in folder.glob("*/tokenizer.json"):  # short
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False, separators=(",", ":")) + "\n")
(folder / "strings.json").write_text(json.dumps(goldens, ensure_ascii=True, separators=(",", ":")) + "\n")

# ---- SentencePiece, with the settings of LLaMA's
out = io.BytesIO()
lines = ["the quick brown fox says hello world and the answer is 42", "two words café foxes 1 2 3 hello hello, it is 100 or 7; (see <here>)",
         "what is the answer to the question, and why is it so? because the world says so"] * 30
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines), model_writer=out, vocab_size=340, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
    remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True, minloglevel=2)
(folder / "sentencepiece").mkdir(exist_ok=True)
(folder / "sentencepiece" / "tokenizer.model").write_bytes(out.getvalue())
config = {"eos_token": "</s>", "pad_token": "<pad>", "chat_template": "{{ messages }}", "added_tokens_decoder": {
    "340": {"content": "<pad>", "special": True}}}
(folder / "sentencepiece" / "tokenizer_config.json").write_text(json.dumps(config) + "\n")
pieces = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
count = pieces.vocab_size()
strings = [text for text in STRINGS if len(text) < 40] + ["  two  spaces  ", "\u2581a \u2581", " lead"]
ids = [pieces.encode(text) for text in strings]
(folder / "sentencepiece.json").write_text(json.dumps(
    {"strings": strings, "ids": ids, "decoded": [pieces.decode(one) for one in ids]}, separators=(",", ":")) + "\n")
writer = gguf.GGUFWriter(folder / "sentencepiece.gguf", "llama")
writer.add_tokenizer_model("llama")
writer.add_token_list([pieces.id_to_piece(i) for i in range(count)])
writer.add_token_scores([pieces.get_score(i) for i in range(count)])
writer.add_token_types([2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1 for i in range(count)])
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
