#!/usr/bin/env python3
"""Writes the goldens of examples/finetune/tests/data_chat.cpp with transformers.

    make_chat_goldens.py OUTPUT_FILE        (chat_templates.json, beside this script)

Chat templates as models carry them, and what apply_chat_template of transformers makes of conversations: the whole text,
and of the messages before the last answer the text with add_generation_prompt.
"""

import argparse
import json
import pathlib

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

CHATML = ("{%% for message in messages %%}%s{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
          "'<|im_end|>' + '\\n'}}{%% endfor %%}{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\\n' }}"
          "{%% endif %%}")
SYSTEM = ("{%% if loop.first and messages[0]['role'] != 'system' %%}{{ '<|im_start|>system\\n%s<|im_end|>\\n' }}"
          "{%% endif %%}")
TEMPLATES = {
    "chatml": ("chatml", CHATML % ""),
    "smollm2": ("smollm2", CHATML % (SYSTEM % "You are a helpful AI assistant named SmolLM, trained by Hugging Face")),
    "qwen2": ("qwen2", CHATML % (SYSTEM % "You are a helpful assistant.")),
    # Qwen2.5's, without what it does with tools.
    "qwen2.5": ("qwen2", "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + "
                "messages[0]['content'] + '<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou are Qwen, "
                "created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}\n{%- endif %}\n"
                "{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" "
                "and not loop.first) or (message.role == \"assistant\") %}\n        {{- '<|im_start|>' + message.role "
                "+ '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
                "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"),
    "llama3": ("llama3", "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
               "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + "
               "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
               "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant"
               "<|end_header_id|>\\n\\n' }}{% endif %}"),
    "llama2": ("llama2", "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
               "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
               "{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if loop.index0 == 0 "
               "and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
               "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
               "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
               "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}"
               "{% endfor %}"),
    "mistral-0.1": ("mistral", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
                    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
                    "{{ message['content'] + eos_token + ' ' }}{% else %}{{ raise_exception('Only user and assistant "
                    "roles are supported!') }}{% endif %}{% endfor %}"),
    "mistral-0.2": ("mistral", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
                    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
                    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles "
                    "are supported!') }}{% endif %}{% endfor %}"),
    "zephyr": ("zephyr", "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
               "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + "
               "message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + "
               "message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n"
               "{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"),
}
CONVERSATIONS = [
    [("user", "2 + 2?"), ("assistant", "4")],
    [("user", "  Why is the sky\nblue? "), ("assistant", " Because of \"Rayleigh\" scattering.\n\n#### 1 ")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Bye.")],
    [("user", "\u00dcber \u6f22\u5b57?"), ("assistant", "\U0001f600"), ("user", "More"), ("assistant", "{{ no }}")],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=pathlib.Path)
    output = parser.parse_args().output
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
    goldens = []
    for case, (name, template) in TEMPLATES.items():
        conversations = []
        for conversation in CONVERSATIONS:
            if name == "mistral" and conversation[0][0] == "system":
                continue
            messages = [{"role": role, "content": text} for role, text in conversation]
            conversations.append({
                "messages": messages,
                "text": tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False),
                "prompt": tokenizer.apply_chat_template(messages[:-1], chat_template=template, tokenize=False,
                                                        add_generation_prompt=True)})
        goldens.append({"case": case, "name": name, "template": template, "conversations": conversations})
    output.write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
