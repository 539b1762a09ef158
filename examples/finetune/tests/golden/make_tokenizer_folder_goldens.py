#!/usr/bin/env python3
"""Writes glue/tokenizer_folders.json: what transformers' AutoTokenizer makes of whole folders, in which several files
say what the tokenizer is: which of them goes first, which tokens are found before text is split, how vocabularies with
blank or repeated lines are read.

    make_tokenizer_folder_goldens.py [--output FILE]

No network and no other file but glue/small_bpe is used. The cases are those in which transformers 4 and 5 agree: the
script writes the same with either, but for "made_with".
"""

import argparse
import json
import pathlib
import shutil
import tempfile

import tokenizers
import transformers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
VOCAB = """[PAD] [UNK] [CLS] [SEP] [MASK] hello Hello world cafe café take now ##s ##x drug 中国 中 国 <s> </s> a [ e ##nt ent ]
no <unk> <pad>""".split()
N = len(VOCAB)
STRINGS = ["Hello hello world", "take drugx [ENT] now", "take DRUGX now", "中国 café CAFÉ", "[MASK] a [CLS] <s> a", "", "zzz no"]
PAIR = ("hello", "now a")

BPE_SIZE = len(json.loads((HERE / "glue/small_bpe/vocab.json").read_text(encoding="utf-8")))
BPE_STRINGS = ["hello world", "take the", "a <new>x [ENT] b", " hello", "<unk> <s> </s>", "", "É 😀"]
MASK_STRINGS = BPE_STRINGS + ["take <mask> the"]


def lines(tokens=VOCAB, end="\n"):
    return "".join(token + end for token in tokens)


def entry(content, special=False, **flags):
    flags = {"lstrip": False, "normalized": not special, "rstrip": False, "single_word": False, **flags}
    return {"content": content, **flags, "special": special}


def flagged(content, **flags):
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, **flags}


def tokenizer_json(lowercase=True, more=()):
    special = [{"id": i, **entry(VOCAB[i], True)} for i in range(5)]
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    known = {name: {"id": name, "ids": [i], "tokens": [name]} for i, name in ((2, "[CLS]"), (3, "[SEP]"))}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special + list(more),
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [cls, a, sep],
                           "pair": [cls, a, sep, b, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                           "special_tokens": known},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {token: i for i, token in enumerate(VOCAB)}},
    }


def bert_cases():
    vocab = {"vocab.txt": lines()}
    added = {"added_tokens.json": {"drugx": N, "[ENT]": N + 1}}
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
    decoder = {str(N): entry("drugx"), str(N + 1): entry("[ENT]", True)}
    other_names = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

    def config(**keys):
        return {"tokenizer_config.json": keys}

    def token_map(**keys):
        return {"special_tokens_map.json": keys}

    fast = {"tokenizer_class": "PreTrainedTokenizerFast", **names, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    yield "vocab.txt alone", vocab
    yield "added_tokens.json with a map", {**vocab, **added, **token_map(**names, additional_special_tokens=["[ENT]"]),
                                           **config(do_lower_case=True, tokenizer_class="BertTokenizer", model_max_length=512)}
    yield "added_tokens.json without a map", {**vocab, **added}
    yield "added_tokens.json, additional_special_tokens in the config", {**vocab, **added, **config(additional_special_tokens=["[ENT]"])}
    yield "added_tokens_decoder", {**vocab, **config(tokenizer_class="BertTokenizer", added_tokens_decoder=decoder)}
    yield "added_tokens_decoder goes before the others", {
        **vocab, **config(added_tokens_decoder=decoder), "added_tokens.json": {"take": N, "no": N + 1}, **token_map(cls_token="<s>")}
    yield "an empty added_tokens_decoder too", {**vocab, **added, **config(added_tokens_decoder={})}
    yield "names in the map alone", {**vocab, **token_map(**other_names)}
    yield "names in the config alone", {**vocab, **config(**other_names)}
    yield "names in the map go before the config's", {
        **vocab, **config(cls_token="[CLS]", sep_token="[SEP]"), **token_map(cls_token="<s>", sep_token=flagged("</s>"))}
    yield "roles that BERT has not", {**vocab, **config(bos_token="<s>", eos_token="</s>")}
    yield "an additional special token without an id", {**vocab, **token_map(additional_special_tokens=["[ENT]"])}
    yield "flags of a special token", {**vocab, **config(mask_token=flagged("hello", lstrip=True, rstrip=True))}
    yield "single words and stripped space", {**vocab, **config(added_tokens_decoder={
        str(N): entry("ca", single_word=True), str(N + 1): entry("ello", normalized=False),
        str(N + 2): entry("[ENT]", True, lstrip=True, rstrip=True)})}
    yield "lines of Windows", {"vocab.txt": lines(end="\r\n")}
    yield "no end of line at the end", {"vocab.txt": lines()[:-1]}
    yield "a blank line within", {"vocab.txt": lines(VOCAB[:5] + [""] + VOCAB[5:])}
    yield "blank lines at the end", {"vocab.txt": lines() + "\n\n"}
    yield "repeated lines", {"vocab.txt": lines(VOCAB + ["hello", "[CLS]"])}
    yield "a cased vocabulary", {**vocab, **config(do_lower_case=False)}
    yield "accents kept", {**vocab, **config(strip_accents=False)}
    yield "Chinese together", {**vocab, **config(tokenize_chinese_chars=False)}
    yield "never_split", {**vocab, **config(never_split=["Hello"])}
    yield "model_input_names without types", {**vocab, **config(model_input_names=["input_ids", "attention_mask"])}
    yield "DistilBERT's class", {**vocab, **config(tokenizer_class="DistilBertTokenizer")}
    yield "tokenizer.json", {"tokenizer.json": tokenizer_json()}
    yield "tokenizer.json beside another vocab.txt", {"tokenizer.json": tokenizer_json(), "vocab.txt": lines(VOCAB[:5] + VOCAB[:4:-1])}
    yield "tokenizer.json, cased by the config", {"tokenizer.json": tokenizer_json(), **config(tokenizer_class="BertTokenizer", do_lower_case=False)}
    yield "tokenizer.json, its own class", {"tokenizer.json": tokenizer_json(False), **config(**{**fast, "do_lower_case": True, "cls_token": "<s>"})}
    yield "tokenizer.json with added tokens", {"tokenizer.json": tokenizer_json(more=[{"id": N, **entry("drugx")}, {"id": N + 1, **entry("[ENT]", True)}])}
    yield "tokenizer.json, added_tokens.json and a map", {"tokenizer.json": tokenizer_json(), **added, **token_map(**names, additional_special_tokens=["[ENT]"])}


def roberta_cases():
    folder = HERE / "glue/small_bpe"
    merges = (folder / "merges.txt").read_text(encoding="utf-8")
    mask = flagged("<mask>", lstrip=True)
    kept = {key: mask[key] for key in mask if key != "__type"}
    yield "two files alone", {}, BPE_STRINGS
    yield "merges with lines of Windows", {"merges.txt": merges.replace("\n", "\r\n")}, BPE_STRINGS
    yield "merges without a version", {"merges.txt": merges.split("\n", 1)[1]}, BPE_STRINGS
    yield "a space before the first word", {"tokenizer_config.json": {"add_prefix_space": True}}, BPE_STRINGS
    yield "added_tokens.json with a map", {
        "added_tokens.json": {"<new>": BPE_SIZE, "[ENT]": BPE_SIZE + 1},
        "special_tokens_map.json": {"additional_special_tokens": ["[ENT]"], "mask_token": kept}}, MASK_STRINGS
    yield "a mask that leaves the space before it", {"special_tokens_map.json": {"mask_token": {**kept, "lstrip": False}}}, MASK_STRINGS
    yield "added_tokens_decoder", {"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer", "added_tokens_decoder": {
        "4": entry("<mask>", True, lstrip=True), str(BPE_SIZE): entry("<new>"), str(BPE_SIZE + 1): entry("[ENT]", True, rstrip=True)}}}, MASK_STRINGS
    yield "names in the map", {"special_tokens_map.json": {"cls_token": "</s>", "sep_token": "<s>"}}, BPE_STRINGS
    yield "bos_token and eos_token stay special", {"special_tokens_map.json": {"cls_token": "<unk>", "sep_token": "<pad>"}}, BPE_STRINGS


def load(family, files):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if family == "roberta":
            for file in ("vocab.json", "merges.txt"):
                shutil.copy(HERE / "glue/small_bpe" / file, folder)
        for file, content in {**files, "config.json": json.dumps({"model_type": family})}.items():
            (folder / file).write_bytes(content.encode("utf-8"))
        return AutoTokenizer.from_pretrained(folder, use_fast=True)


def golden(family, name, files, strings):
    files = {file: text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) for file, text in files.items()}
    tokenizer = load(family, files)
    pair = tokenizer([PAIR[0]], [PAIR[1]])
    ids = pair["input_ids"][0]
    return {
        "name": name, "family": family, "files": files, "strings": strings,
        "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in strings],
        "pad_id": tokenizer.pad_token_id, "unk_id": tokenizer.unk_token_id,
        "pair": PAIR, "pair_ids": ids, "pair_types": pair["token_type_ids"][0] if "token_type_ids" in pair else [0] * len(ids),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "glue/tokenizer_folders.json")
    arguments = parser.parse_args()
    cases = [golden("bert", name, files, STRINGS) for name, files in bert_cases()]
    cases += [golden("roberta", name, files, strings) for name, files, strings in roberta_cases()]
    made_with = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    text = ",\n  ".join(json.dumps(case) for case in cases)
    arguments.output.write_text(f'{{"made_with": {json.dumps(made_with)},\n "cases": [\n  {text}\n]}}\n', encoding="ascii")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes, {len(cases)} cases")


if __name__ == "__main__":
    main()
