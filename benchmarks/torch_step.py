"""Training steps of a BERT by torch and transformers, in a process of its own: bert_step.py asks for one case at a time.

    torch_step.py --model DIR --threads N --batch 32 [--data DIR]

Every line of the input is a case as JSON: {"what": "ft", "padding": "max_length", "dtype": "bf16", "steps": 12}; the answer is a
line of JSON, {"seconds": of each step} or {"failed": why}. The first line of the output says what there is. Cases:

    ft        all parameters, AdamW (foreach)
    compiled  the same through torch.compile; the model is kept for the next round
    lora      peft's adapters beside the MLP matrices, which are frozen; all else trains, as the program's run type lora
    method    the paper's own order of products in the MLP layers (reference_layer.py), random bases, SparseAdam; float alone
    ipex      the same as ft through intel_extension_for_pytorch's optimize, where it is installed

bf16 is torch.autocast of forward and loss on the CPU. Without --data the sequences are random words of 128 tokens, and
"longest" has no meaning.
"""

import argparse
import json
import math
import pathlib
import sys
import time

from reference_layer import reference_layer

SHARE = 0.012  # of a matrix's entries, as preset paper keeps
RATE = 1e-4


class Steps:
    def __init__(self, a):
        import torch
        import transformers

        torch.set_num_threads(a.threads)
        torch.manual_seed(1)
        self.torch, self.transformers, self.a = torch, transformers, a
        self.compiled = {}
        transformers.utils.logging.set_verbosity_error()
        self.batches = {}
        self.rows = []
        if a.data:
            rows = (pathlib.Path(a.data) / "CoLA" / "train.tsv").read_text(encoding="utf-8").splitlines()
            self.rows = [(fields[3], int(fields[1])) for fields in (row.split("\t") for row in rows)]

    def versions(self):
        found = {"torch": self.torch.__version__, "transformers": self.transformers.__version__}
        for name in ("peft", "intel_extension_for_pytorch"):
            try:
                found[name] = __import__(name).__version__
            except Exception as absent:  # one that is built for another torch fails with errors of its own
                found[name] = f"not there: {str(absent).splitlines()[0]}"
        return found

    def model(self):
        return self.transformers.BertForSequenceClassification.from_pretrained(self.a.model, num_labels=2, attn_implementation="sdpa")

    def batch(self, number, padding):
        """The sentences of the file in their order, as the program takes them with --no-shuffle."""
        torch, size = self.torch, self.a.batch
        if (number, padding) not in self.batches:
            if not self.rows:
                ids = torch.randint(1000, 20000, (size, 128))
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
                labels = torch.randint(0, 2, (size,))
            else:
                vocabulary = str(pathlib.Path(self.a.model) / "vocab.txt")
                tokenizer = self.transformers.BertTokenizer(vocabulary, do_lower_case=True)
                rows = self.rows[number * size : (number + 1) * size]
                inputs = dict(tokenizer([text for text, _ in rows], padding=padding, truncation=True, max_length=128, return_tensors="pt"))
                labels = torch.tensor([label for _, label in rows])
            self.batches[number, padding] = inputs, labels
        return self.batches[number, padding]

    def put_in_basis(self, model):
        """Replaces the MLP layers by the paper's; returns their weights, which SparseAdam steps."""
        torch = self.torch
        bases = {}

        def basis(kind, n):
            if (kind, n) not in bases:
                bases[kind, n] = torch.linalg.qr(torch.randn(n, n)).Q
            return bases[kind, n]

        weights = []
        for block in model.bert.encoder.layer:
            for kind, owner in (("up", block.intermediate), ("down", block.output)):
                out, inner = owner.dense.weight.shape
                owner.dense = reference_layer(torch, owner.dense, basis(kind, out), basis(kind, inner), math.ceil(SHARE * out * inner))
                weights.append(owner.dense.weight)
        return weights

    def adapted(self, model, rank):
        """peft's adapters beside the MLP matrices; what else there is trains as before."""
        import peft

        mlp = r".*encoder\.layer\.\d+\.(intermediate|output)\.dense"
        model = peft.get_peft_model(model, peft.LoraConfig(r=rank, lora_alpha=1, lora_dropout=0.0, target_modules=mlp))
        for name, parameter in model.named_parameters():
            parameter.requires_grad = not name.endswith("base_layer.weight")
        return model

    def made(self, case):
        """(model, optimizers)"""
        torch, what = self.torch, case["what"]
        torch.manual_seed(42)
        model = self.model()
        model.train()
        if what == "lora":
            model = self.adapted(model, case["rank"])
        sparse = self.put_in_basis(model) if what == "method" else []
        theirs = {id(weight) for weight in sparse}
        dense = [p for p in model.parameters() if p.requires_grad and id(p) not in theirs]
        optimizers = [torch.optim.AdamW(dense, lr=RATE, weight_decay=0.0, foreach=True)]
        if sparse:
            optimizers.append(torch.optim.SparseAdam(sparse, lr=RATE))
        if what == "ipex":
            import intel_extension_for_pytorch as ipex

            dtype = torch.bfloat16 if case["dtype"] == "bf16" else torch.float32
            model, optimizers[0] = ipex.optimize(model, optimizer=optimizers[0], dtype=dtype)
        if what == "compiled":
            model = torch.compile(model)
        return model, optimizers

    def run(self, case):
        torch = self.torch
        key = json.dumps(case, sort_keys=True)
        model, optimizers = self.compiled.get(key) or self.made(case)
        if case["what"] == "compiled":
            self.compiled[key] = model, optimizers
        times = []
        for number in range(case["steps"]):
            inputs, labels = self.batch(number, case["padding"])
            start = time.perf_counter()
            for optimizer in optimizers:
                optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case["dtype"] == "bf16"):
                loss = model(**inputs, labels=labels).loss
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            times.append(time.perf_counter() - start)
        return {"seconds": times}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    a = parser.parse_args()
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer

    def answer(data):
        print(json.dumps(data), file=answers, flush=True)

    try:
        steps = Steps(a)
    except Exception as missing:
        answer({"failed": f"{type(missing).__name__}: {missing}"})
        return
    answer({"versions": steps.versions()})
    for line in sys.stdin:
        try:
            answer(steps.run(json.loads(line)))
        except Exception as error:  # one case's: the others go on
            text = str(error).strip().splitlines()
            answer({"failed": f"{type(error).__name__}: {text[0] if text else ''}"[:300]})


if __name__ == "__main__":
    main()
