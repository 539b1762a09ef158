#!/usr/bin/env python3
"""Writes the tokenizer's goldens: what transformers' BertTokenizer and RobertaTokenizer make of hard strings and of
GLUE's sentences.

    make_tokenizer_goldens.py --vocab DIR --glue DIR [--output DIR]

DIR of --vocab holds bert-base-uncased/vocab.txt and roberta-base/vocab.json and merges.txt, DIR of --glue the folders CoLA,
SST-2, MRPC and STS-B. No network is used. Written are:
  small_vocab.txt       a vocabulary of this script's own, which the hard strings need
  hard_strings.json     the strings, with their tokens of that vocabulary under several options, and ids under
                        bert-base-uncased's
  glue_digests.json     of each GLUE file and maximum length: a hash of all ids, and of every 16 examples a short checksum;
                        neither sentences nor ids, which are others' to publish
  small_bpe/vocab.json, small_bpe/merges.txt
                        a byte-level BPE of this script's own, trained on the hard strings
  roberta_hard_strings.json, roberta_glue_digests.json
                        as above, of RoBERTa; the strings also as cut by GPT-2's pattern, and a hash of the kind of character
                        that the pattern takes every code point for
"""

import argparse
import json
import pathlib

import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, normalizers, trainers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizer, RobertaTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

WORDS = """the a an of and cafe café CAFE naive naïve ##ve resume résumé istanbul İstanbul ##stanbul strasse straße un ##aff ##able
unaffable hello Hello world World ##s ##ing ##ed ##'s don ' t ##t . , ! ? - – — … “ ” ( ) [ ] { } / \\ $ % & * + < = > @ ^ _ ` | ~
: ; # ## ### 1 2 12 ##2 ##3 3 中 国 日本 日 本 語 ##語 한 국 ᄒ ##ᅡ ##ᆫ ف ##ا ##رس א ##ב ب σ ##ς ##σ οδος ##ο ##δ ο Σ dž ǆ ᾳ fi ﬁ ##n fin
ffi e ##e é ##é i ı ##i ##ı ß ##ß ẞ s ss 😀 👩 ##👩 👨 ##👨 🏽 ##🏽 🇫 🇷 ##🇷 ❤ 𝐀 𝒳 x ##x xx ##xx xxx ##xxx y ##y sep cls ##cls ə ʼ ð ø ł ##ł ñ n ##n
o ö ##ö u ü ##ü å Å ж й и ##й ##и ё е ##е क ##् ##ष ##ि ก ##ำ 𠀀 㐀 豈 〇 ａ Ａ ①  ² ½ ™ № ℃ Ω ω K k ſ t h e r ##r ##h""".split()

HARD = [
    "", " ", "   ", "\t", "\n", "\r\n", " \t\n\r ", "\u00a0", "\u3000\u2003\u2028\u2029\u0085\u000b\u000c",
    "hello world", "  hello   world  ", "hello\tworld\nhello\rworld", "Hello, World!", "don't", "unaffable", "UNAFFABLE",
    "the unaffable the", "hello-world_hello", "...", "!?.,", "a.b,c", "#hashtag ##s ###", "[ ] { } ( )", "$12.3%", "<a@b>",
    "café", "cafe\u0301", "CAFÉ", "naïve résumé", "e\u0301\u0302\u0327", "\u0301", "\u0301\u0302", "a\u0301 \u0301a",
    "\u0327\u0301e", "o\u0308", "Å", "A\u030a", "\u212b", "\u1e9b\u0323", "\u0344", "\u0340\u0341\u0343", "ﬁn", "ﬃ", "ĳ", "½ ² ™ № ℃",
    "İstanbul", "istanbul", "I\u0307stanbul", "ıI", "Iı İi", "straße", "STRASSE", "STRAẞE", "ſt", "Σ", "ΟΔΟΣ", "ΟΔΟΣ ΟΔΟΣ", "ὈΔΥΣΣΕΎΣ",
    "ǅ Ǆ ǆ", "ᾼ ᾳ", "Ω Ω ω", "K k K", "Й й и\u0306", "Ё ё", "Ꭰ ꭰ", "ა Ა", "Ԁ", "𐐀 𐐨",
    "中国", "日本語", "中 国hello中国", "a中b", "한국", "각 가\u11a8", "\u1100\u1161\u11a8", "𠀀a", "\u2b81f x", "\U0002b81f\U0002b820\U0002b91f\U0002b920",
    "㐀豈〇", "\u4dbf\u4dc0\u9fff\ua000\u33ff\u3400", "\uf8ff\uf900\ufaff\ufb00", "。、「」", "ａＡ！", "ｶﾞ ガ",
    "😀", "hello😀world", "👩‍👩", "👩\u200d👩\u200d👨", "👩🏽", "🇫🇷", "❤️ ❤", "1️⃣", "😀😀😀", "☺ ☻ ♥",
    "𝐀𝐁𝐂", "𝒳 x", "①②", "ⅷ Ⅷ", "ℵ", "\U0001f130",
    "مرحبا", "فارسی", "ف\u0650ا", "אב", "א\u05b8ב", "\u202eabc\u202c", "\u200fhello\u200e", "a\u061cb", "क्षि", "กำ", "\u0e33", "ফ়",
    "a\u200bb", "a\u200db", "a\u200cb", "a\u2060b", "a\ufeffb", "\ufeffhello", "a\u00adb", "hel\u00adlo", "a\u034fb", "a\u180eb", "a\u115fb",
    "a\u0000b", "\u0000", "a\ufffdb", "\ufffd", "a\u0001b\u001fc\u007fd\u009fe", "a\u0085b", "a\u2028b\u2029c", "a\u000bb\u000cc",
    "\ue000", "a\ue000b\uf8ff", "\U000f0000x\U0010fffd", "\ud7ff\ue000", "\uffff\ufffe", "\U0010ffff", "a\u0378b", "\u0378", "\U000e0041a",
    "\U000e0100a", "a\u2e43b\u2e52c\u2e3ad", "a\u166db", "a\u1734b", "a\u1885b", "a\ua9bdb", "a\U000111c9b", "a\u0890b\u08e2c", "a\u1df5b\u1df6c", "a\u08d4\u08e3b", "\U00011938", "\ua7dc \u1c89", "\U0001e900",
    "x" * 99, "x" * 100, "x" * 101, "x" * 1000, "x" * 100 + " " + "x" * 101, "é" * 50 + "x" * 50, "e\u0301" * 60, "e\u0301" * 101, "中" * 101,
    "x" * 101 + "!", "!" * 150, "x" * 50 + "\u00ad" * 60 + "x" * 50, "ß" * 100, "İ" * 60, "👩" * 100, "👩" * 101,
    "[SEP]", "[sep]", "[CLS] hello [SEP]", "hello[SEP]world", "[SEP][SEP]", "[[SEP]]", "[SEP", "SEP]", "[ SEP ]", "[MASK]hello[MASK]", "[PAD]", "[UNK]",
    "[UNK]s", "a[MASK]b", "[\u00adSEP]", "[S\u0301EP]", "[CLS][CLS]中[MASK]", "[unused0]", "## ##s", "hello##s", "“hello” – ‘world’…", "it 's don 't",
    "hello\u0300\u0301\u0302world", "\u200d", "\u200b \u200b", "\u00ad", "\u0303 \u0303", "١٢٣", "１２", "x\u20e3", "a\u0488b", "\u3099", "か\u3099 が",
    "hello world " * 20, "\ufe0f", "\u20ac100 £5 ¥3", "C++ / C# ~ `x`", "a|b\\c^d", "\u2013\u2014\u2015\u2212", "¿¡§¶", "·•‣", "\u00b4 \u02c6 \u02dc",
]

ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]

# Beside HARD: what the pattern, the bytes and the special tokens of RoBERTa make hard.
ROBERTA_HARD = [
    "Hello world", " Hello world", "  Hello world", "Hello  world", "Hello world ", "Hello world  ", "Hello   ", "\tHello", "Hello\t\tworld",
    "Hello\n\nworld", "Hello \n world", "Hello\r\n", " \n", "\n ", "a \t b", "a\t b", "a \u00a0b", "a\u00a0\u00a0b", "\u00a0hello", "hello\u00a0",
    "a\u2003b", "a \u3000 b", "a\u200b b", "a\u180eb", "a\ufeff b", "a\u0085b", "a\x1cb\x1fc", "\x00\x01\x7f\x80\xad\xff",
    "I'm you're he's we've they'll she'd don't", "I'M YOU'RE HE'S WE'VE THEY'LL SHE'D DON'T", "'s't're've'm'll'd", "'S'T'RE", "''s", "'''", " 's", "  's",
    "!'s", "'sa", "'r", "'l", "'v e", "s's's", "1's", "'\u017f", "\u2019s don\u2019t", "`s", "'", "it's  's", "ca n't", "a'", "'1", "'re're",
    "abc123def", "123abc", "3.14 -1,000", "a1b2", "x²", "½ Ⅷ", "٣٤ ३४ ১২ 𝟙𝟚", "一二三4", "①②③", "a١b", "２０２４年", "\U00010d40\U00010d49", "\U0001fbf0",
    "!?.,;:", " !?", "a!b", "$5.00!!", "foo_bar", "__init__", "C++/C#", "<html>&amp;</html>", "http://www.example.com/a?b=c", "a@b.c", "#tag", "...", "…",
    "e\u0301", "é", "naïve Café ÉCOLE", "ﬁn", "ß", "İ", "क्षि", "สวัสดี", "שָׁלוֹם", "مرحبا بالعالم", "日本語のテキスト", "안녕하세요", "привет мир", "Ελλάδα's",
    "😀", "a😀b", " 😀 😀", "👩\u200d👩\u200d👧", "👩🏽", "🇫🇷🇩🇪", "❤️", "1️⃣", "\ufe0f", "\u0301", " \u0301", "a \u0301b", "\U0002ebf0a", "\U000323b0a",
    "\ua7ceb \ua7cbb", "\ue000", "\uffff", "\U0010ffff", "\u0378a", "Ġ", "Ġthe", "Ċ", "Â", "âĢ", "\u0120the", "\ufffd",
    "antidisestablishmentarianism" * 30, "ab" * 500, "a" * 999, "7" * 400, "!" * 300, " " * 300, " " * 300 + "a", "\n" * 100 + "a", "é" * 200, "日" * 200, "😀" * 100,
    "the quick brown fox jumps over the lazy dog", "The Quick BROWN fOx", "supercalifragilisticexpialidocious", "Donaudampfschifffahrt", "aaaaabbbbbccccc",
    "<s>", "</s>", "<pad>", "<unk>", "<mask>", "<S>", "<MASK>", "< mask >", "<mask", "mask>", "<|endoftext|>", "madeupword0000", "<<mask>>", "<s></s>",
    "a <mask>", "a<mask>", "<mask> a", " <mask> ", "a  <mask>  b", "a\n\t<mask>\nb", "a\u00a0\u3000<mask>b", "<mask><mask>", "<mask> <mask>", "</s> <mask>",
    "a </s> b", "a</s></s>b", "<s> Hello </s>", "Hello<mask>world", "x <unk> y", "<pad><pad>", "don<mask>'t", "a's</s>'s", "  <s>  ", "\u200b<mask>",
]

ROBERTA_OPTIONS = {  # beside options of RobertaTokenizer: whether <mask> takes the space before it
    "default": {"lstrip": True},
    "add_prefix_space": {"lstrip": True, "add_prefix_space": True},
    "mask_as_others": {"lstrip": False},
}

ROBERTA_PAIR_LENGTHS = [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 32, 128]

PAIRS = [
    ("hello world", "the unaffable cafe"), ("", ""), ("hello", ""), ("", "hello"), ("hello world " * 9, "the"), ("the", "hello world " * 9),
    ("hello " * 7, "world " * 7), ("hello " * 8, "world " * 7), ("hello " * 7, "world " * 8), ("[SEP]", "[CLS] x"), ("a b c d e", "a b c"),
]
PAIR_LENGTHS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 32, 128]
SINGLE_LENGTHS = [2, 3, 4, 8, 16, 128]
SINGLE_STEP = 8

OPTIONS = {
    "uncased": {},
    "cased": {"do_lower_case": False},
    "cased_without_accents": {"do_lower_case": False, "strip_accents": True},
    "uncased_with_accents": {"do_lower_case": True, "strip_accents": False},
    "uncased_chinese_together": {"tokenize_chinese_chars": False},
}

GLUE_FILES = [  # task, file, header, column of a, of b, of the label
    ("cola", "CoLA/train.tsv", False, 3, None, 1),
    ("cola", "CoLA/dev.tsv", False, 3, None, 1),
    ("sst2", "SST-2/train.tsv", True, 0, None, 1),
    ("sst2", "SST-2/dev.tsv", True, 0, None, 1),
    ("mrpc", "MRPC/train.tsv", True, 3, 4, 0),
    ("mrpc", "MRPC/dev.tsv", True, 3, 4, 0),
    ("stsb", "STS-B/train.tsv", True, 7, 8, 9),
    ("stsb", "STS-B/dev.tsv", True, 7, 8, 9),
]
GLUE_LENGTHS = [512, 128, 32, 16]
BLOCK = 16

FNV_START = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3


def fnv1a(state, values):
    """64-bit FNV-1a over 32-bit values, the lowest byte first."""
    for value in values:
        for byte in value.to_bytes(4, "little"):
            state = ((state ^ byte) * FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return state


def example_values(ids, type_ids):
    """What is hashed of one example: its length, its ids, how many of them are of the second sentence."""
    return [len(ids), *ids, sum(type_ids)]


def read_vocab(path):
    lines = path.read_text(encoding="utf-8").split("\n")
    return {token: i for i, token in enumerate(lines[:-1] if lines[-1] == "" else lines)}


def encode(tokenizer, firsts, seconds, max_length):
    # A list even for one example: alone, transformers takes an empty second sentence for none.
    out = tokenizer(firsts, seconds, truncation="longest_first", max_length=max_length)
    ids = out["input_ids"]
    return list(zip(ids, out["token_type_ids"] if "token_type_ids" in out else [[0] * len(each) for each in ids]))


def small_vocab():
    """WORDS, and the characters that the strings come to under any of the options, but for some that stay unknown."""
    characters = set()
    for options in OPTIONS.values():
        lower = options.get("do_lower_case", True)
        normalizer = normalizers.BertNormalizer(True, True, options.get("strip_accents", lower), lower)
        for text in HARD:
            characters.update(normalizer.normalize_str(text))
    characters = [c for i, c in enumerate(sorted(characters)) if not c.isspace() and i % 9 != 4]
    tokens = SPECIAL + WORDS + characters + ["##" + c for c in characters]
    return list(dict.fromkeys(tokens))


def hard_strings(real_vocab):
    vocab = small_vocab()
    assert all("\n" not in token and "\r" not in token for token in vocab)
    by_token = {token: i for i, token in enumerate(vocab)}
    encodings = {}
    for name, options in OPTIONS.items():
        tokenizer = BertTokenizer(vocab=by_token, **options)
        all_ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in HARD]
        tokens = [" ".join(vocab[i] for i in ids) for ids in all_ids]
        encodings[name] = {"options": options, "tokens": tokens}
    tokenizer = BertTokenizer(vocab=by_token)
    firsts, seconds = (list(side) for side in zip(*PAIRS))
    real = BertTokenizer(vocab=real_vocab)
    return vocab, {
        "made_with": {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "strings": HARD,
        "small_vocab": encodings,
        "bert_base_uncased_ids": [real(text, add_special_tokens=False)["input_ids"] for text in HARD],
        "pairs": PAIRS,
        "pair_encodings": {str(n): encode(tokenizer, firsts, seconds, n) for n in PAIR_LENGTHS},
        "singles": HARD[:: SINGLE_STEP],
        "single_encodings": {str(n): encode(tokenizer, HARD[:: SINGLE_STEP], None, n) for n in SINGLE_LENGTHS},
    }


def read_bpe(folder):
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    return vocab, [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]


def roberta(bpe, lstrip=True, **options):
    return RobertaTokenizer(vocab=bpe[0], merges=bpe[1], mask_token=AddedToken("<mask>", lstrip=lstrip), **options)


def write_small_bpe(folder):
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=ROBERTA_SPECIAL, initial_alphabet=alphabet, min_frequency=2,
        max_token_length=16, show_progress=False
    )
    tokenizer.train_from_iterator(HARD + ROBERTA_HARD, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    return read_bpe(folder)


def kind(splits, character):
    """What GPT-2's pattern takes a character for, seen by what it does not separate it from."""
    for name, like in (("l", "a"), ("n", "1"), ("o", "!")):
        if len(splits(like + character)) == 1:
            return name
    return "s"


def kind_hashes(splits):
    """Of every 65536 code points but surrogates: a hash of their kinds."""
    hashes = []
    for plane in range(17):
        codes = [c for c in range(plane << 16, (plane + 1) << 16) if not 0xD800 <= c <= 0xDFFF]
        hashes.append(f"{fnv1a(FNV_START, [ord(kind(splits, chr(c))) for c in codes]):016x}")
    return hashes


def roberta_hard_strings(small, real):
    strings = HARD + ROBERTA_HARD
    pattern = ByteLevel(add_prefix_space=False)

    def splits(text):
        return [end - start for _, (start, end) in pattern.pre_tokenize_str(text)]

    encodings = {}
    for name, options in ROBERTA_OPTIONS.items():
        tokenizer = roberta(small, **options)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in strings]
        encodings[name] = {"options": options, "ids": ids}
    tokenizer = roberta(small)
    firsts, seconds = (list(side) for side in zip(*PAIRS))
    real_tokenizer = roberta(real)
    return {
        "made_with": {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "strings": strings,
        "word_lengths": [splits(text) for text in strings],
        "kind_hashes": kind_hashes(splits),
        "small_bpe": encodings,
        "roberta_base_ids": [real_tokenizer(text, add_special_tokens=False)["input_ids"] for text in strings],
        "pairs": PAIRS,
        "pair_encodings": {str(n): encode(tokenizer, firsts, seconds, n) for n in ROBERTA_PAIR_LENGTHS},
        "singles": strings[:: SINGLE_STEP],
        "single_encodings": {str(n): encode(tokenizer, strings[:: SINGLE_STEP], None, n) for n in SINGLE_LENGTHS},
    }


def glue_digests(tokenizer, vocabulary, glue):
    files = []
    for task, name, header, column_a, column_b, column_label in GLUE_FILES:
        lines = (glue / name).read_bytes().decode("utf-8-sig").split("\n")
        lines = lines[:-1] if lines[-1] == "" else lines
        rows = [line.rstrip("\r").split("\t") for line in lines][1 if header else 0 :]
        firsts = [row[column_a] for row in rows]
        seconds = [row[column_b] for row in rows] if column_b is not None else None
        digests, blocks = {}, ""
        for length in GLUE_LENGTHS:
            examples = [example_values(*e) for e in encode(tokenizer, firsts, seconds, length)]
            state = FNV_START
            for values in examples:
                state = fnv1a(state, values)
            digests[str(length)] = {"ids": sum(values[0] for values in examples), "fnv1a": f"{state:016x}"}
            if length == GLUE_LENGTHS[0]:
                for start in range(0, len(examples), BLOCK):
                    state = FNV_START
                    for values in examples[start : start + BLOCK]:
                        state = fnv1a(state, values)
                    blocks += f"{state & 0xFFFF:04x}"
        files.append({
            "task": task, "split": pathlib.Path(name).stem, "examples": len(rows),
            "label_sum": round(sum(float(row[column_label]) for row in rows), 3),
            "digests": digests, "block_checksums": [blocks[i : i + 128] for i in range(0, len(blocks), 128)],
        })
        print(f"{name}: {len(rows)} examples, {digests['512']['ids']} ids")
    return {
        "made_with": {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "vocabulary": vocabulary, "block": BLOCK, "files": files,
    }


def pretty(value, indent=""):
    """JSON with an entry a line, but lists that hold numbers in one."""
    inner = indent + " "
    if isinstance(value, dict):
        entries = [f"{inner}{json.dumps(key)}: {pretty(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(entries) + "\n" + indent + "}" if entries else "{}"
    if isinstance(value, (list, tuple)) and any(isinstance(item, (str, list, tuple, dict)) for item in value):
        if not any(isinstance(item, dict) for item in value) and len(value) == 2:
            return json.dumps(value, separators=(",", ":"))
        return "[\n" + ",\n".join(inner + pretty(item, inner) for item in value) + "\n" + indent + "]"
    return json.dumps(value, separators=(",", ":"))


def write_json(path, value):
    path.write_text(pretty(value) + "\n", encoding="ascii")
    print(f"{path}: {path.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=pathlib.Path, required=True)
    parser.add_argument("--glue", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent / "glue")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    real_vocab = read_vocab(arguments.vocab / "bert-base-uncased" / "vocab.txt")
    vocab, hard = hard_strings(real_vocab)
    (arguments.output / "small_vocab.txt").write_bytes("".join(token + "\n" for token in vocab).encode("utf-8"))
    write_json(arguments.output / "hard_strings.json", hard)
    digests = glue_digests(BertTokenizer(vocab=real_vocab), "bert-base-uncased", arguments.glue)
    write_json(arguments.output / "glue_digests.json", digests)

    real_bpe = read_bpe(arguments.vocab / "roberta-base")
    small_bpe = write_small_bpe(arguments.output / "small_bpe")
    write_json(arguments.output / "roberta_hard_strings.json", roberta_hard_strings(small_bpe, real_bpe))
    write_json(
        arguments.output / "roberta_glue_digests.json", glue_digests(roberta(real_bpe), "roberta-base", arguments.glue)
    )


if __name__ == "__main__":
    main()
