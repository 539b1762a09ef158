#!/usr/bin/env python3
"""Writes the seeds of the program's fuzz targets into tests/fuzz/corpus/<target>/. They are committed; run it again after a
change of a file format or of a target's input."""
import json
import pathlib
import struct

here = pathlib.Path(__file__).resolve().parent
golden = here.parent / "golden" / "glue"


def seed(target, name, *sections):
    folder = here / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    parts = [s if isinstance(s, bytes) else s.encode() for s in sections]
    (folder / name).write_bytes(b"\x1e".join(parts))


def text(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# ---- tokenizers ----------------------------------------------------------------------------------------------------
pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "w", "##o", "##r", "##ld", "!", ",", "'", "s", "1", "##2",
          "##3", "你"]
special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def added(token, number, **flags):
    return {"id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True} | flags


def word_piece(**changes):
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(pieces[i], i) for i in range(5)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                    {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                                    {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                           "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                                              "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {p: i for i, p in enumerate(pieces)}}} | changes


bert_processing = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
config = text({"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": None, "model_max_length": 512,
               "tokenize_chinese_chars": True} | special)
decoder = text({"tokenizer_class": "BertTokenizerFast",
                "added_tokens_decoder": {"18": {k: v for k, v in added("<new>", 18, lstrip=True).items() if k != "id"}}})
special_map = text(special | {"additional_special_tokens": ["<e1>", {"content": "<e2>", "rstrip": True}]})
more_tokens = text({"<e1>": 18, "<e2>": 19})

seed("tokenizer_json", "wordpiece", text(word_piece()), "", "", "", "Hello world")
seed("tokenizer_json", "wordpiece_all", text(word_piece(post_processor=bert_processing)), config, special_map, more_tokens,
     "hello <e1> w")
seed("tokenizer_json", "wordpiece_decoder", text(word_piece(post_processor=None)), decoder, "", "", "w <new> 123")

byte_tokens = [chr(b) if chr(b).isprintable() and b not in (0x20, 0xAD) and (33 <= b < 127 or b > 160) else chr(256 + n)
               for b, n in ((b, sum(1 for c in range(b) if not (33 <= c < 127 or 161 <= c < 173 or c > 173)))
                            for b in range(256))]
roberta = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or"), ("l", "d")]
bpe_vocab = {t: i for i, t in enumerate(roberta + byte_tokens + [a + b for a, b in merges])}
byte_bpe = {
    "version": "1.0", "added_tokens": [added(t, i, lstrip=t == "<mask>") for i, t in enumerate(roberta)],
    "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
    "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True,
                       "add_prefix_space": False},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
              "fuse_unk": False, "vocab": bpe_vocab, "merges": [f"{a} {b}" for a, b in merges]}}
seed("tokenizer_json", "byte_bpe", text(byte_bpe), "", "", "", "hello world")

lines = "\n".join(pieces) + "\n"
seed("vocab_txt", "plain", lines)
seed("vocab_txt", "crlf", lines.replace("\n", "\r\n"), config)
seed("vocab_txt", "bom", "\ufeff" + lines, "", special_map, more_tokens, "hello <e1>")
seed("vocab_txt", "blank", lines + "\n\nhello\n", decoder)

roberta_config = text({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True, "bos_token": "<s>", "eos_token": "</s>",
                       "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
                       "mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False}})
merge_lines = "#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n"
roberta_map = text({"cls_token": "<s>", "mask_token": {"content": "<mask>", "lstrip": True}})
seed("vocab_json", "plain", text(bpe_vocab), merge_lines)
seed("vocab_json", "config", text(bpe_vocab), merge_lines, roberta_config, roberta_map, text({"<e1>": len(bpe_vocab)}),
     "hello <e1>world")
golden_merges = "\n".join((golden / "small_bpe" / "merges.txt").read_text().split("\n")[:40]) + "\n"
seed("merges_txt", "plain", golden_merges)
seed("merges_txt", "config", golden_merges.replace("\n", "\r\n"), roberta_config, roberta_map, "", "hello world")

hard = json.loads((golden / "hard_strings.json").read_text())
strings = [c if isinstance(c, str) else c.get("text", c.get("a", "")) for c in
           (hard if isinstance(hard, list) else hard.get("cases", hard.get("strings", [])))]
for i, string in enumerate([s for s in strings if s and len(s) < 60][:20]):
    seed("text", f"{i:02}", string, strings[-1 - i][:60])
seed("text", "invalid", b"a\xff\xfe", "b")

# ---- config.json ---------------------------------------------------------------------------------------------------
bert = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_act": "gelu", "vocab_size": 30522,
        "max_position_embeddings": 512, "type_vocab_size": 2, "num_hidden_layers": 12, "hidden_size": 768,
        "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "classifier_dropout": None, "initializer_range": 0.02, "pad_token_id": 0,
        "position_embedding_type": "absolute", "torch_dtype": "float32", "transformers_version": "4.40.0"}
seed("config_json", "bert", text(bert))
seed("config_json", "labels", text(bert | {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1},
                                           "problem_type": "single_label_classification"}))
seed("config_json", "regression", text(bert | {"num_labels": 1, "problem_type": "regression"}))
seed("config_json", "roberta", text(bert | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1,
                                            "max_position_embeddings": 514, "bos_token_id": 0}))
seed("config_json", "same_names", text(bert | {"id2label": {"0": "no", "1": "no"}, "label2id": {"no": 1}}))
seed("config_json", "largest_pad", text(bert | {"model_type": "roberta", "pad_token_id": 2147483647}))

llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 49152,
         "max_position_embeddings": 8192, "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536,
         "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5, "initializer_range": 0.02,
         "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "rope_theta": 100000.0,
         "rope_scaling": None, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "torch_dtype": "bfloat16"}
llama3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
seed("decoder_config", "llama", text(llama))
seed("decoder_config", "llama3", text(llama | {"rope_scaling": llama3, "eos_token_id": [128001, 128009]}))
seed("decoder_config", "rope_parameters", text(llama | {"rope_parameters": llama3 | {"rope_theta": 5e5}, "head_dim": 64}))
seed("decoder_config", "linear", text(llama | {"rope_scaling": {"type": "linear", "factor": 2.0}, "attention_bias": True}))
seed("decoder_config", "mistral", text(llama | {"model_type": "mistral", "sliding_window": None}))
seed("decoder_config", "window", text(llama | {"model_type": "mistral", "sliding_window": 4096}))
seed("decoder_config", "qwen2", text(llama | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 32768,
                                              "max_window_layers": 21}))

# ---- shards --------------------------------------------------------------------------------------------------------
def shard(**numbers):
    header, data = {}, b""
    for name, values in numbers.items():
        packed = struct.pack(f"<{len(values)}f", *values)
        header[name.replace("__", ".")] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    packed = text(header).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + data


shard_a, shard_b = shard(module__bert__x=[1.0, 2.0], unlisted=[3.0]), shard(y=[4.0], module__bert__x=[0.5])
listed = {"module.bert.x": "a.safetensors", "y": "b.safetensors"}
seed("shards", "two", text({"metadata": {"total_size": 12}, "weight_map": listed}), shard_a, shard_b)
seed("shards", "one", text({"weight_map": {"unlisted": "a.safetensors"}}), shard_a)
seed("shards", "of_another", text({"weight_map": listed | {"y": "a.safetensors"}}), shard_a, shard_b)
seed("shards", "missing", text({"weight_map": listed | {"z": "c.safetensors"}}), shard_a, shard_b)
seed("shards", "outside", text({"weight_map": listed | {"z": "../a.safetensors"}}), shard_a, shard_b)
seed("shards", "long_name", text({"weight_map": listed | {"z": "s" * 300 + ".safetensors"}}), shard_a, shard_b)
seed("shards", "adapter", text({"weight_map": {"base_layer.w": "a.safetensors"}}), shard(base_layer__w=[1.0]))

# ---- GGUF ----------------------------------------------------------------------------------------------------------
def gguf(entries, tensors=(), version=3, alignment=32):
    """Entries: key to the number of its type, and its value as bytes. Tensors: name, extents, type, data."""
    def string(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
    for key, (kind, value) in entries.items():
        out += string(key) + struct.pack("<I", kind) + value
    data = b""
    for name, extents, kind, values in tensors:
        out += string(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, len(data))
        data += values + bytes(-len(values) % alignment)
    return out + bytes(-len(out) % alignment) + data


def gguf_text(value):
    return 8, struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_texts(values):
    return 9, struct.pack("<IQ", 8, len(values)) + b"".join(gguf_text(value)[1] for value in values)


def gguf_numbers(code, kind, values):
    return 9, struct.pack(f"<IQ{len(values)}{code}", kind, len(values), *values)


byte_letters = {b: chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
byte_letters |= {b: chr(256 + i) for i, b in enumerate(sorted(set(range(256)) - set(byte_letters)))}
byte_tokens = [byte_letters[b] for b in range(256)]
merged = ["he", "ll", "hell", "hello", "Ġhello"]
gguf_merges = ["h e", "l l", "he ll", "hell o", "Ġ hello"]


def gguf_tokenizer(tokens, merges, pre, **more):
    tokens = tokens + ["<|im_start|>", "<tool>"]
    entries = {"model": gguf_text("gpt2"), "pre": gguf_text(pre), "tokens": gguf_texts(tokens),
               "token_type": gguf_numbers("i", 5, [1] * (len(tokens) - 2) + [3, 4]), "merges": gguf_texts(merges),
               "bos_token_id": (4, struct.pack("<I", 0)), "eos_token_id": (4, struct.pack("<I", 1))} | more
    return {"tokenizer.ggml." + key: value for key, value in entries.items()}


all_types = {"uint8": (0, b"\xc8"), "int8": (1, b"\x9c"), "uint16": (2, b"\1\2"), "int16": (3, b"\1\xf2"), "uint32": (4, b"\1\2\3\4"),
             "int32": (5, b"\1\2\3\xf4"), "float32": (6, struct.pack("<f", 0.5)), "bool": (7, b"\1"), "string": gguf_text("Grüße"),
             "strings": gguf_texts(["a", "", "b"]), "numbers": gguf_numbers("f", 6, [1.5, 2.5]), "uint64": (10, b"\1" * 8),
             "int64": (11, b"\xf1" * 8), "float64": (12, struct.pack("<d", 0.5)), "general.alignment": (4, struct.pack("<I", 64))}
block_bytes = {0: 4, 1: 2, 2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 12: 144, 13: 176, 14: 210, 30: 2, 26: 4, 10: 84}
block_sizes = {0: 1, 1: 1, 30: 1, 26: 1, 12: 256, 13: 256, 14: 256, 10: 256}
sizes = {"context_length": 16, "block_count": 1, "embedding_length": 4, "feed_forward_length": 6, "attention.head_count": 2,
         "attention.head_count_kv": 1, "rope.dimension_count": 2}
model = {"general.architecture": gguf_text("llama"), "llama.attention.layer_norm_rms_epsilon": (6, struct.pack("<f", 1e-5))}
model |= {"llama." + key: (4, struct.pack("<I", value)) for key, value in sizes.items()}
seed("gguf", "types", gguf(all_types, alignment=64))
seed("gguf", "blocks", gguf({}, [(f"t{kind}", [block_sizes.get(kind, 32), 2], kind, bytes(range(100)) * 5)
                                 for kind in block_bytes]))
seed("gguf", "model", gguf(model, [("token_embd.weight", [4, 3], 0, bytes(48)), ("rope_freqs.weight", [1], 0, b"\0\0\x80\x3f")]))
seed("gguf", "version_2", gguf(model, [("token_embd.weight", [4, 3], 0, bytes(48))], version=2))
seed("gguf", "qwen2", gguf({key.replace("llama", "qwen2"): value for key, value in model.items()} | {
    "general.architecture": gguf_text("qwen2"), "qwen2.rope.scaling.type": gguf_text("linear"),
    "qwen2.rope.scaling.factor": (6, struct.pack("<f", 2))}, [("token_embd.weight", [4, 3], 0, bytes(48))]))
for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
    seed("gguf", f"tokenizer_{pre}", gguf(gguf_tokenizer(list("helo wrd!12") + ["Ġ"] + merged, gguf_merges, pre)))
seed("gguf", "all_bytes", gguf(gguf_tokenizer(byte_tokens + merged, gguf_merges, "smollm", add_bos_token=(7, b"\1"))))


# ---- what is put on weights: adapters and deltas of a model of one block --------------------------------------------------
def tensors(metadata, **arrays):
    """A safetensors file. `arrays`: name, "__" for a dot, to its shape and its numbers, integers as I32."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (shape, values) in arrays.items():
        whole = isinstance(values[0], int)
        packed = struct.pack(f"<{len(values)}{'i' if whole else 'f'}", *values)
        header[name.replace("__", ".")] = {"dtype": "I32" if whole else "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    packed = text(header).encode()
    packed += b" " * (-len(packed) % 8)
    return struct.pack("<Q", len(packed)) + packed + data


def hash_of_zeros(count):
    """weights_hash of checkpoints/delta_file.hpp."""
    value = count
    for _ in range(count):
        value = (value << 5 | value >> 59) & (2**64 - 1)
        value = value * 0x9E3779B97F4A7C15 % 2**64
    return f"{value ^ value >> 32:016x}"


block = "model.layers.0."
extents = {"model.embed_tokens.weight": (3, 4), block + "input_layernorm.weight": (1, 4), block + "post_attention_layernorm.weight": (1, 4),
           "model.norm.weight": (1, 4)}
extents |= {f"{block}self_attn.{kind}_proj.weight": sides for kind, sides in {"q": (4, 4), "k": (2, 4), "v": (2, 4), "o": (4, 4)}.items()}
extents |= {f"{block}mlp.{kind}_proj.weight": sides for kind, sides in {"gate": (6, 4), "up": (6, 4), "down": (4, 6)}.items()}
of_delta = {"format": "sparsegrad delta 1", "base": text({name: hash_of_zeros(rows * cols) for name, (rows, cols) in extents.items()})}
up, down = "model__layers__0__mlp__up_proj__weight", "model__layers__0__mlp__down_proj__weight"
seed("weight_change", "delta", "", tensors(of_delta, **{
    up + "__positions": ([2], [1, 5]), up + "__values": ([2], [0.5, -1.0]),
    down + "__lora_A": ([1, 6], [1.0] * 6), down + "__lora_B": ([4, 1], [0.5] * 4), "model__norm__weight": ([4], [1.0] * 4)}))
seed("weight_change", "delta_of_another", "", tensors(of_delta | {"base": text({"model.norm.weight": "0" * 16})}, model__norm__weight=([4], [1.0] * 4)))
peft = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj", "q_proj"], "bias": "none", "use_rslora": False}
prefix = "base_model__model__model__layers__0__"
lora = {prefix + "mlp__up_proj__lora_A__weight": ([2, 4], [1.0] * 8), prefix + "mlp__up_proj__lora_B__weight": ([6, 2], [0.5] * 12)}
other = {prefix + "self_attn__q_proj__lora_A__weight": ([1, 4], [1.0] * 4), prefix + "self_attn__q_proj__lora_B__weight": ([4, 1], [2.0] * 4)}
seed("weight_change", "peft", text(peft), tensors({"format": "pt"}, **lora))
seed("weight_change", "peft_patterns", text(peft | {"rank_pattern": {"q_proj": 1}, "alpha_pattern": {"mlp.up_proj": 8}, "use_rslora": True}),
     tensors({}, **lora, **other))
seed("weight_change", "gguf", "", gguf(
    {"general.architecture": gguf_text("llama"), "general.type": gguf_text("adapter"), "adapter.type": gguf_text("lora"),
     "adapter.lora.alpha": (6, struct.pack("<f", 4))},
    [("blk.0.attn_q.weight.lora_a", [4, 2], 0, bytes(32)), ("blk.0.attn_q.weight.lora_b", [2, 4], 0, b"\0\0\x80\x3f" * 8)]))


# ---- causal tokenizers: tokenizer.json, tokenizer_config.json, generation_config.json, a text --------------------------
def causal(pre, **model):
    tokens = ["<|end|>", *list("helo wrd!12"), "Ġ", *merged]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return {"added_tokens": [added("<|end|>", 0)], "normalizer": None, "pre_tokenizer": pre, "post_processor": None,
            "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocabulary, "merges": gguf_merges} | model}


byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
qwen2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
         r"\s+(?!\S)|\s+")
split_by = [{"type": "Split", "pattern": {"Regex": qwen2}, "behavior": "Isolated", "invert": False},
            byte_level | {"use_regex": False}]
digits = [{"type": "Digits", "individual_digits": True}, byte_level]
frame = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [], "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}}}
settings = text({"eos_token": "<|end|>", "bos_token": {"content": "<|end|>"}, "chat_template": [{"name": "default", "template": "x"}],
                 "added_tokens_decoder": {"40": {"content": "<new>", "special": True}}})
ends = text({"eos_token_id": [0, 1]})
sample = "Hello hello<|end|> we're\n\n 12"
seed("causal_tokenizer", "gpt2", text(causal(byte_level)), settings, ends, sample)
seed("causal_tokenizer", "smollm2", text(causal({"type": "Sequence", "pretokenizers": digits}, unk_token="<|end|>", fuse_unk=True)), "", "", sample)
seed("causal_tokenizer", "qwen2", text(causal({"type": "Sequence", "pretokenizers": split_by}) | {"normalizer": {"type": "NFC"}}),
     settings, "", "e\u0301 " + sample)
seed("causal_tokenizer", "framed", text(causal(byte_level, ignore_merges=True) | {"post_processor": {
    "type": "Sequence", "processors": [byte_level, frame]}}), "", text({"eos_token_id": 1}), sample)

# ---- GLUE: the letters of task and file, then the file ----------------------------------------------------------------
tasks = "cola sst2 mrpc stsb qqp mnli mnli-mm qnli rte wnli ax".split()
files = {name: i for i, name in enumerate(
    "train.tsv dev.tsv test.tsv dev_matched.tsv dev_mismatched.tsv test_matched.tsv test_mismatched.tsv "
    "raw/in_domain_train.tsv raw/in_domain_dev.tsv raw/out_of_domain_dev.tsv msr_paraphrase_train.txt "
    "msr_paraphrase_test.txt quora_duplicate_questions.tsv sts-train.csv sts-dev.csv sts-test.csv diagnostic.tsv "
    "diagnostic-full.tsv AX.tsv train.csv dev.csv validation.csv test.csv train.jsonl dev.jsonl validation.jsonl test.jsonl "
    "val.jsonl train.json dev.json validation.json test.json multinli_1.0_train.jsonl multinli_1.0_train.txt validation.tsv "
    "validation_matched.tsv multinli_1.0_dev_matched.txt multinli_1.0_dev_matched.jsonl "
    "multinli_1.0_dev_mismatched.txt multinli_1.0_dev_mismatched.jsonl original/multinli_1.0_train.txt "
    "original/multinli_1.0_dev_matched.txt original/multinli_1.0_dev_mismatched.jsonl val.tsv val.csv val.json "
    "dev_matched.csv validation_matched.csv validation_matched.jsonl validation_mismatched.tsv "
    "validation_mismatched.jsonl val_matched.json test_matched.csv test_mismatched.jsonl MNLI/diagnostic.tsv "
    "MNLI/AX.tsv MNLI/diagnostic-full.tsv".split())}


def glue(task, file, *rows, name=None):
    letters = chr(ord("A") + tasks.index(task)) + chr(ord("A") + files[file])
    joined = "\n".join("\t".join(str(c) for c in row) if not isinstance(row, str) else row for row in rows) + "\n"
    seed("glue", name or f"{task}_{file.replace('/', '_')}", letters + joined)


a, b = "A man is playing.", "He \"plays\", ä."
glue("cola", "train.tsv", ("gj04", 1, "", a), ("bc01", 0, "*", b))
glue("cola", "raw/in_domain_train.tsv", ("gj04", 1, "", a), ("bc01", 0, "*", b))
glue("cola", "test.tsv", ("index", "sentence"), (0, a))
glue("sst2", "train.tsv", ("sentence", "label"), (a, 0), (b, 1))
glue("sst2", "test.tsv", ("index", "sentence"), (0, a))
glue("mrpc", "train.tsv", ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"), (1, 70, 71, a, b))
glue("mrpc", "msr_paraphrase_train.txt", ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"), (1, 70, 71, a, b))
glue("stsb", "train.tsv", ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2",
                           "score"), (0, "main-captions", "MSRvid", "2012test", "0001", "none", "none", a, b, "5.000"))
glue("stsb", "sts-train.csv", ("main-captions", "MSRvid", "2012test", "0001", "3.250", a, b))
glue("qqp", "train.tsv", ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), (1, 2, 3, a, b, 0), ("short", 1))
glue("qqp", "quora_duplicate_questions.tsv", ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
     (1, 2, 3, a, b, 0))
mnli = ("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse",
        "sentence2_parse", "sentence1", "sentence2", "label1", "gold_label")
glue("mnli", "train.tsv", mnli, (0, 1, "1n", "slate", "( x )", "( y )", "(R)", "(R)", a, b, "neutral", "neutral"))
glue("mnli", "dev_matched.tsv", mnli, (0, 1, "1n", "slate", "( x )", "( y )", "(R)", "(R)", a, b, "neutral", "entailment"))
glue("mnli-mm", "dev_mismatched.tsv", mnli, (0, 1, "1n", "s", "( x )", "( y )", "(R)", "(R)", a, b, "x", "contradiction"))
for task in ("qnli", "rte"):
    glue(task, "train.tsv", ("index", "question" if task == "qnli" else "sentence1", "sentence" if task == "qnli" else "sentence2",
                             "label"), (0, a, b, "entailment"), (1, b, a, "not_entailment"))
glue("wnli", "train.tsv", ("index", "sentence1", "sentence2", "label"), (0, a, b, 1))
glue("rte", "test.tsv", ("index", "sentence1", "sentence2"), (0, a, b))
glue("sst2", "train.csv", "sentence,label,idx", '"A ""b"", c",1,0', "d,0,1")
glue("ax", "diagnostic.tsv", ("index", "sentence1", "sentence2"), (0, a, b))
glue("ax", "diagnostic-full.tsv", ("Lexical Semantics", "Predicate-Argument Structure", "Logic", "Knowledge", "Domain", "Premise",
                                   "Hypothesis", "Label"), ("", "", "Negation", "", "Artificial", a, b, "contradiction"))
multi_nli = {"gold_label": "neutral", "genre": "slate", "sentence1": a, "sentence2": b, "annotator_labels": ["neutral"]}
glue("mnli", "multinli_1.0_dev_matched.txt", ("gold_label", "genre", "sentence1", "sentence2", "label1"),
     ("neutral", "slate", a, b, "neutral"), ("-", "slate", b, a))
glue("mnli-mm", "original/multinli_1.0_dev_mismatched.jsonl", text(multi_nli), text(multi_nli | {"gold_label": "-"}))
glue("mnli", "validation_matched.csv", "premise,hypothesis,label,idx", 'a,"b, c",2,0', "d,e,-1,1")
glue("qqp", "val.json", text([{"question1": a, "question2": b, "label": 1, "idx": 0}, {"question1": b, "question2": a, "label": 0}]))
rows = {"question1": [a, b], "question2": [b, a], "is_duplicate": [True, 0]}
for form, table in (("columns", {name: {"1": column[0], "0": column[1]} for name, column in rows.items()}), ("lists", rows),
                    ("split", {"columns": list(rows), "index": [1, 0], "data": [list(row) for row in zip(*rows.values())]}),
                    ("table", {"schema": {"fields": []}, "data": [dict(zip(rows, row)) for row in zip(*rows.values())]}),
                    ("index", {str(i): dict(zip(rows, row)) for i, row in enumerate(zip(*rows.values()))})):
    glue("qqp", "val.json", text(table), name=f"qqp_val_{form}.json")
glue("rte", "train.jsonl", text({"sentence1": a, "sentence2": b, "label": 0, "idx": 0}), text({"sentence1": b, "sentence2": a, "label": 1}))

# ---- runs ----------------------------------------------------------------------------------------------------------
options = {"task": "rte", "run_type": "sparse", "model": "m", "output": "o", "preset": "none", "epochs": 3, "max_steps": 0,
           "batch_size": 16, "accumulation": 1, "learning_rate": 2e-5, "weight_decay": 0.01, "clip_norm": 1.0,
           "schedule": "linear", "warmup": 0.1, "seed": 42, "dropout": None, "shuffle": True, "max_length": 128,
           "threads": 1, "save": "best"}
seed("options_file", "run", text({"run_type": "sparse", "epochs": 2, "learning_rate": 1e-3, "share": 0.01, "basis-scope": "layer",
                                  "deterministic": True, "adam": "dense_core", "plan": "auto", "batch_size": "8"}))
seed("options_file", "lora", text({"run_type": "lora", "lora_rank": 4, "lora_scale": 0.5, "preset": "none"}),
     "--epochs=3\n--seed\n7\n--no-shuffle")
seed("options_file", "words", "", "--protocol\nreference\n--run-type\nmeprop\n--up-out=0.95\n--down-in=random:8")
seed("run_json", "finished", text({"format": "sparsegrad-glue run 1", "finished": True, "options": options}))
seed("run_json", "unfinished", text({"format": "sparsegrad-glue run 1", "finished": False, "options": options, "steps": []}))
account = [1, 2, 3, 4, 5, 6, 7, 28, True]
seed("run_records", "records", text({
    "steps": [[1, 0, 0.7, 0.7, 1e-5, 1e-3, 16, 300, 0.1, 1024]],
    "evaluations": [[1, 0, 0.6, [["accuracy", 0.5, True], ["f1", 0.0, False]], 0.2, True]], "best": 0,
    "phase1": [3, 0.5, 0.1, [0.7, 0.6], account], "memory": account, "steps_done": 1, "tokens": 300, "refreshes": 0,
    "skipped_steps": 0, "refresh_seconds": 0.0, "training_seconds": 0.1, "evaluation_seconds": 0.2}))
seed("run_records", "empty", text({
    "steps": [], "evaluations": [], "best": None, "phase1": [0, 0.0, 0.0, [], account], "memory": account, "steps_done": 0,
    "tokens": 0, "refreshes": 0, "skipped_steps": 0, "refresh_seconds": 0.0, "training_seconds": 0.0,
    "evaluation_seconds": 0.0}))
seed("run_records", "no_list", text({"steps": None, "evaluations": {}, "best": None, "phase1": [0, 0.0, 0.0, None, account]}))

# ---- values that nest deep, for every reader of JSON -----------------------------------------------------------------
deep = "[" * 300 + "]" * 300
seed("config_json", "deep", text(bert)[:-1] + ',"id2label":' + deep + "}")
seed("decoder_config", "deep", text(llama)[:-1] + ',"rope_parameters":' + deep + "}")
seed("tokenizer_json", "deep", '{"model":{"type":"WordPiece","vocab":{"a":' + deep + "}}}")
seed("options_file", "deep", '{"epochs":' + deep + "}")
seed("run_json", "deep", '{"finished":true,"options":' + deep + "}")
glue("rte", "val.jsonl", '{"premise":"a","hypothesis":"b","label":' + deep + "}", name="deep")
seed("shards", "deep", '{"weight_map":{"y":' + deep + "}}", shard_a)
seed("weight_change", "deep", '{"peft_type":' + deep + "}", tensors({}, **lora))
seed("run_records", "deep", '{"steps":[[' + deep + "]]}")
