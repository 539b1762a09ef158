"""One measurement of another program on a language model, in a process of its own: llm_step.py asks for it.

    peer_llm.py --what lora|ft --model FOLDER --data FILE --dtype float|bf16 --threads N --batch B --steps S --max-length L
                [--rank R] [--every 3]
    peer_llm.py --what generate --model FOLDER --dtype float|bf16 --threads N --prompt TEXT --tokens N
    peer_llm.py --what llama.cpp --model FILE.gguf --threads N --prompt TEXT --tokens N

lora and ft are transformers (with peft): up_proj and down_proj of every third block, AdamW, batches padded to the longest, loss on
answers alone; bf16 is torch.autocast. generate is transformers' greedy generation, llama.cpp that of llama-cpp-python.
Prints a line of JSON: {"seconds": of each step, "tokens": of each step without padding, "losses": [...], "peak_bytes": N}, or
{"a_second": tokens}, or {"failed": why}; with "versions".
"""

import argparse
import json
import resource
import sys
import time

RATE = 1e-4


def forget_peak():
    """The largest memory counts from here, as the program's does from before its training."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def peak_bytes():
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def examples(path, count):
    """The first questions and answers of the file, as the program takes them with --no-shuffle."""
    found = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            found.append((record["question"], record["answer"]))
            if len(found) == count:
                return found
    raise ValueError(f"the data have {len(found)} records, expected {count}")


def loaded(a, torch, transformers):
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    transformers.utils.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation="sdpa")
    return model, transformers.AutoTokenizer.from_pretrained(a.model)


def batch_of(a, torch, tokenizer, rows):
    """({input_ids, attention_mask, labels}, tokens without padding)"""
    ids, labels = [], []
    for question, answer in rows:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answered = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        ids.append([*asked, *answered][: a.max_length])
        labels.append([*[-100] * len(asked), *answered][: a.max_length])
    longest = max(map(len, ids))
    padding = [longest - len(row) for row in ids]
    batch = {
        "input_ids": [row + [tokenizer.eos_token_id] * n for row, n in zip(ids, padding)],
        "attention_mask": [[1] * len(row) + [0] * n for row, n in zip(ids, padding)],
        "labels": [row + [-100] * n for row, n in zip(labels, padding)],
    }
    return {name: torch.tensor(rows) for name, rows in batch.items()}, sum(map(len, ids))


def train(a):
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    model, tokenizer = loaded(a, torch, transformers)
    chosen = [f"layers.{block}.mlp.{name}" for block in range(0, model.config.num_hidden_layers, a.every) for name in ("up_proj", "down_proj")]
    if a.what == "lora":
        import peft

        versions["peft"] = peft.__version__
        model = peft.get_peft_model(model, peft.LoraConfig(r=a.rank, lora_alpha=a.rank, lora_dropout=0.0, target_modules=chosen))
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = any(name.endswith(f"{matrix}.weight") for matrix in chosen)
    model.train()
    rows = examples(a.data, a.batch * a.steps)
    batches = [batch_of(a, torch, tokenizer, rows[at : at + a.batch]) for at in range(0, len(rows), a.batch)]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, foreach=True)
    forget_peak()
    seconds, losses = [], []
    for inputs, _ in batches:
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    found = {"seconds": seconds, "tokens": [tokens for _, tokens in batches], "losses": losses, "peak_bytes": peak_bytes()}
    return {**found, "trained": sum(p.numel() for p in trained), "versions": versions}


def written_a_second(write, tokens):
    """Of the tokens behind the first one, whose time is the prompt's."""
    times = {}
    for count in (1, tokens):
        start = time.perf_counter()
        write(count)
        times[count] = time.perf_counter() - start
    return (tokens - 1) / (times[tokens] - times[1])


def generate(a):
    import torch
    import transformers

    model, tokenizer = loaded(a, torch, transformers)
    model.eval()
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": a.prompt}], tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")

    def write(count):
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.dtype == "bf16"):
            model.generate(**inputs, do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=tokenizer.eos_token_id)

    return {"a_second": written_a_second(write, a.tokens), "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}


def llama_cpp(a):
    import llama_cpp

    model = llama_cpp.Llama(model_path=a.model, n_ctx=1024, n_threads=a.threads, n_threads_batch=a.threads, logits_all=False, verbose=False)
    prompt = model.tokenize(a.prompt.encode())

    def write(count):
        model.reset()
        written = 0
        for _ in model.generate(prompt, temp=0.0, top_k=1):
            written += 1
            if written == count:
                break

    return {"a_second": written_a_second(write, a.tokens), "versions": {"llama-cpp-python": llama_cpp.__version__}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", required=True, choices=["lora", "ft", "generate", "llama.cpp"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--dtype", choices=["float", "bf16"], default="float")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--prompt", default="")
    parser.add_argument("--tokens", type=int, default=64)
    a = parser.parse_args()
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    try:
        found = {"lora": train, "ft": train, "generate": generate, "llama.cpp": llama_cpp}[a.what](a)
    except Exception as error:  # of another program: llm_step.py says it
        text = str(error).strip().splitlines()
        found = {"failed": f"{type(error).__name__}: {text[0] if text else ''}"[:300]}
    print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
