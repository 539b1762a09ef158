#!/usr/bin/env python3
"""Writes the goldens of examples/finetune/tests/data_chat.cpp with transformers.

    make_chat_goldens.py OUTPUT_FILE        (chat_templates.json, beside this script)

Chat templates as models carry them, and what apply_chat_template of transformers makes of conversations: the whole text,
and of the messages before the last answer the text with add_generation_prompt. Where the package `trl` is installed,
its copies of the models' whole templates must give the same texts.
"""

import argparse
import json
import pathlib
from functools import partial

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

CHATML = ("{%% for message in messages %%}%s{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
          "'<|im_end|>' + '\\n'}}{%% endfor %%}{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\\n' }}"
          "{%% endif %%}")
SYSTEM = ("{%% if loop.first and messages[0]['role'] != 'system' %%}{{ '<|im_start|>system\\n%s<|im_end|>\\n' }}"
          "{%% endif %%}")
LLAMA31 = ("""{{- bos_token }}
{%%- if not date_string is defined %%}
%s{%%- endif %%}
{%%- if messages[0]['role'] == 'system' %%}
    {%%- set system_message = messages[0]['content']|trim %%}
    {%%- set messages = messages[1:] %%}
{%%- else %%}
    {%%- set system_message = "" %%}
{%%- endif %%}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%%- for message in messages %%}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%%- endfor %%}
{%%- if add_generation_prompt %%}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%%- endif %%}
""")
MISTRAL = ("""{%%- if messages[0]["role"] == "system" %%}
    {%%- set system_message = messages[0]["content"] %%}
    {%%- set loop_messages = messages[1:] %%}
{%%- else %%}
    {%%- set loop_messages = messages %%}
{%%- endif %%}
{#- [AVAILABLE_TOOLS] are left out here. #}
{{- bos_token }}
{%%- for message in loop_messages %%}
    {%%- if message["role"] == "user" %%}
        {%%- if loop.last and system_message is defined %%}
            {{- %s + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%%- else %%}
            {{- %s + message["content"] + "[/INST]" }}
        {%%- endif %%}
    {%%- elif message["role"] == "assistant" %%}
        {{- %s + eos_token}}
    {%%- endif %%}
{%%- endfor %%}
""")
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
    # LLaMA-3.1's and 3.2's, without what they do with tools.
    "llama3.1": ("llama3.1", LLAMA31 % '    {%- set date_string = "26 Jul 2024" %}\n'),
    "llama3.2": ("llama3.1", LLAMA31 % ('    {%- if strftime_now is defined %}\n'
                                        '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
                                        '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n')),
    # v0.3's and Nemo's, without what they do with tools.
    "mistral-0.3": ("mistral-v3", MISTRAL % ('"[INST] "', '"[INST] "', '" " + message["content"]|trim')),
    "mistral-nemo": ("mistral-nemo", MISTRAL % ('"[INST]"', '"[INST]"', 'message["content"]')),
    "zephyr": ("zephyr", "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + "
               "message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + "
               "message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + "
               "message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n"
               "{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"),
}
DATE = "26 Jul 2024"
CONVERSATIONS = [
    [("user", "2 + 2?"), ("assistant", "4")],
    [("user", "  Why is the sky\nblue? "), ("assistant", " Because of \"Rayleigh\" scattering.\n\n#### 1 ")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Bye.")],
    [("user", "\u00dcber \u6f22\u5b57?"), ("assistant", "\U0001f600"), ("user", "More"), ("assistant", "{{ no }}")],
]


def check_whole(case, tokenizer, conversations):
    """Compares with a model's whole template, as trl carries it."""
    file = {"llama3.1": "llama3_1", "llama3.2": "llama3_2", "qwen2.5": "qwen2_5", "llama3": "llama3"}.get(case)
    try:
        import trl
    except ImportError:
        return
    if file is None:
        return
    template = (pathlib.Path(trl.__file__).parent / "chat_templates" / f"{file}.jinja").read_text()
    for one in conversations:
        apply = partial(tokenizer.apply_chat_template, chat_template=template, tokenize=False, date_string=DATE)
        assert apply(one["messages"]) == one["text"], case
        assert apply(one["messages"][:-1], add_generation_prompt=True) == one["prompt"], case
    print(f"{case}: as trl's {file}.jinja")


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
            apply = partial(tokenizer.apply_chat_template, chat_template=template, tokenize=False, date_string=DATE)
            prompt = apply(messages[:-1], add_generation_prompt=True)
            # The later Mistrals leave the system message out of a conversation that ends with an answer.
            skips = name.startswith("mistral-") and conversation[0][0] == "system"
            answer = apply(messages).removeprefix(apply(messages[:-1])) if not skips else \
                apply(messages[1:]).removeprefix(apply(messages[1:-1]))
            conversations.append({"messages": messages, "text": prompt + answer if skips else apply(messages),
                                  "prompt": prompt})
        check_whole(case, tokenizer, conversations)
        goldens.append({"case": case, "name": name, "template": template, "conversations": conversations})
    output.write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
