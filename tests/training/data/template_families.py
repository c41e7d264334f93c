# ruff: noqa: E501 - templates are long lines
"""Chat templates in the manner of the known families, each with what a model of it writes for an answer.

`said` was written by hand from what the models of a family generate; it is what the masks are compared with. A family
of one system turn that its template refuses has `system` false.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """A template, its control tokens, and what a model of the family writes after the generation prompt."""

    name: str
    template: str
    control: tuple[str, ...]
    said: Callable[[str], str]
    thought: Callable[[str, str], str] | None = None
    """What it writes with a thought, or None where the template knows none."""
    called: Callable[[str, str], str] | None = None
    """What it writes to call a tool by name with JSON arguments, or None where the template knows none."""
    system: bool = True
    bos: str | None = None
    eos: str | None = None
    plain: tuple[str, ...] = ()
    """Added tokens that are no control tokens."""


def _chatml(header: str = "<|im_start|>", end: str = "<|im_end|>", ask: str = "") -> str:
    return (
        "{% for m in messages %}{{ '" + header + "' + m.role + '\n' + m.content + '" + end + "\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + header + "assistant\n" + ask + "' }}{% endif %}"
    )


def _ends(end: str) -> Callable[[str], str]:
    return lambda answer: answer + end


_LAST = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
)
_SPLIT = (
    "{% set thought = m.reasoning_content or '' %}{% set content = m.content %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
_HERMES_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\nTools:' }}{% for t in tools %}{{ '\n' + (t | tojson) }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
)
_HERMES_CALLS = (
    "{% for c in m.tool_calls or [] %}{{ '\n' if not loop.first or m.content else '' }}{{ '<tool_call>\n{\"name\": \"' "
    "+ c.function.name + '\", \"arguments\": ' + (c.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}"
)
QWEN3 = (
    _LAST
    + _HERMES_TOOLS
    + "{% for m in messages %}{% if m.role == 'assistant' %}"
    + _SPLIT
    + "{{ '<|im_start|>assistant\n'"
    " }}{% if loop.index0 > ns.last %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{% else %}{{ content }}{% endif %}" + _HERMES_CALLS + "{{ '<|im_end|>\n' }}{% elif m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not "
    "enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
QWEN3_THINKING = QWEN3.split("{% if enable_thinking")[0].replace("assistant\n' }}{% endif", "") + "{% endif %}"
QWEN3_THINKING = QWEN3_THINKING.replace(
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}",
)
_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% elif m.role == 'assistant' %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>ASK' }}{% endif %}"
)
_ALTERNATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
_GEMMA = (
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + "
    "(m.content | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "(m.content | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_FIRST_SYSTEM = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)
_LLAMA2 = (
    _FIRST_SYSTEM + "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (('<<SYS>>\n' + system + "
    "'\n<</SYS>>\n\n') if loop.first and system else '') + (m.content | trim) + ' [/INST]' }}{% else %}"
    "{{ ' ' + (m.content | trim) + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL = (
    _FIRST_SYSTEM + "{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}{{ '[INST] ' + ((system + '\n\n') if "
    "loop.last and system else '') + m.content + '[/INST]' }}{% elif loop.index0 != rest | length - 1 %}"
    "{{ ' ' + m.content + eos_token }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_ASKED_LAST = _MISTRAL.replace("loop.last and system", "loop.index0 == ns.last and system").replace(
    "{{ bos_token }}{% for m in rest %}",
    "{{ bos_token }}{% set ns = namespace(last=-1) %}{% for m in rest %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in rest %}",
)
_MISTRAL_TOOLS = (
    "{{ bos_token }}{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% if loop.index0 == ns.last and tools %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}"
    "{% endif %}{{ '[INST]' + m.content + '[/INST]' }}{% elif m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + "
    "'[/SYSTEM_PROMPT]' }}{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{{ m.content }}{% for c in m.tool_calls %}{{ '[TOOL_CALLS]' + c.function.name + '[ARGS]' + "
    "(c.function.arguments | tojson) }}{% endfor %}{{ eos_token }}{% else %}{{ m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
_HARMONY = (
    _LAST + "{{ '<|start|>system<|message|>You help.<|end|>' }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ '<|start|>assistant<|channel|>commentary to=functions.' + "
    "c.function.name + '<|message|>' + (c.function.arguments | tojson) + '<|call|>' }}{% endfor %}{% else %}"
    "{% if m.thinking and loop.index0 > ns.last %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + "
    "'<|end|>' }}{% endif %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last "
    "and not add_generation_prompt else '<|end|>') }}{% endif %}{% elif m.role == 'tool' %}{{ '<|start|>functions."
    "to=assistant<|message|>' + m.content + '<|end|>' }}{% else %}{{ '<|start|>' + ('developer' if m.role == 'system' "
    "else m.role) + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% if loop.first and tools %}"
    "{{ '<|start|>developer<|message|>' + (tools | tojson) + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
_PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
_GLM4 = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ 'USER: ' + "
    "m.content + '\n' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_ALPACA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}"
    "{{ '### Instruction:\n' + m.content + '\n\n' }}{% else %}{{ '### Response:\n' + m.content + eos_token + '\n\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
_COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' + {'system': '<|SYSTEM_TOKEN|>', 'user': "
    "'<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}[m.role] + (m.content | trim) + '<|END_OF_TURN_TOKEN|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
_COMMAND_A = _COMMAND_R.replace(
    "(m.content | trim) + '<|END",
    "('<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|>' if m.role == 'assistant' else m.content) + '<|END",
)
_GRANITE = (
    "{% if messages[0].role != 'system' %}{{ '<|start_of_role|>system<|end_of_role|>You are Granite.<|end_of_text|>\n' "
    "}}{% endif %}{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + "
    "'<|end_of_text|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}"
    "{% endif %}"
)
_OLMO = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content }}"
    "{% if not loop.last %}{{ eos_token + '\n' }}{% else %}{{ eos_token }}{% endif %}{% else %}{{ '<|' + m.role + "
    "'|>\n' + m.content + '\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% endif %}{% endfor %}"
)
_SMOLLM3 = (
    _LAST + "{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% for m in messages %}{% if m.role == 'assistant' %}"
    + _SPLIT
    + "{{ '<|im_start|>assistant\n'"
    " + (('<think>\n' + thought + '\n</think>\n') if thought and loop.index0 > ns.last else '') + content + "
    "'<|im_end|>\n' }}{% elif m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_BAICHUAN = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<reserved_106>' + "
    "m.content }}{% else %}{{ '<reserved_107>' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<reserved_107>' }}{% endif %}"
)
_MINICPM = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<用户>' + (m.content | trim) + '<AI>' }}{% elif m.role == "
    "'assistant' %}{{ (m.content | trim) + eos_token }}{% endif %}{% endfor %}"
)
_FALCON = (
    "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if m.role == 'system' %}{{ 'System: ' + "
    "m.content }}{% elif m.role == 'user' %}{{ 'User: ' + m.content }}{% else %}{{ 'Falcon: ' + m.content + eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\nFalcon: ' }}{% endif %}"
)
_ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% if loop.last and "
    "add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
)
_HERMES = (
    _HERMES_TOOLS + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}" + _HERMES_CALLS
    + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # fmt: skip
_STARCHAT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_SPACE = (
    "{% for m in messages %}{{ m.role | upper + ': ' + m.content + ('<|im_end|>' if m.role == 'assistant' else '') + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
_OPENCHAT = (
    "{{ bos_token }}{% for m in messages %}{{ 'GPT4 Correct ' + {'user': 'User', 'assistant': 'Assistant', 'system': "
    "'System'}[m.role] + ': ' + m.content + '<|end_of_turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
_DEEPSEEK_V2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}{% elif m.role "
    "== 'assistant' %}{{ 'Assistant: ' + m.content + eos_token }}{% else %}{{ m.content + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_IM = ("<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>")
_HEADERS = ("<|system|>", "<|user|>", "<|assistant|>")
_BOS_EOS = ("<s>", "</s>")


def _thinks(end: str, *, before: str = "<think>\n", after: str = "\n</think>\n\n") -> Callable[[str, str], str]:
    return lambda thought, answer: f"{before}{thought}{after}{answer}{end}"


def _hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call><|im_end|>'


FAMILIES = [
    Family("chatml", _chatml(), _IM, _ends("<|im_end|>")),
    Family("qwen2", _chatml(), ("<|endoftext|>", *_IM), _ends("<|im_end|>"), eos="<|im_end|>"),
    Family(
        "qwen3",
        QWEN3,
        _IM,
        lambda answer: f"<think>\n\n</think>\n\n{answer}<|im_end|>",
        thought=_thinks("<|im_end|>"),
        called=lambda name, arguments: "<think>\n\n</think>\n\n" + _hermes(name, arguments),
        plain=_THINK,
    ),
    Family(
        "qwen3 without thinking",
        "{% set enable_thinking = false %}" + QWEN3,
        _IM,
        _ends("<|im_end|>"),
        plain=_THINK,
    ),
    Family(
        "qwen3 thinking",
        QWEN3_THINKING,
        _IM,
        lambda answer: f"\n</think>\n\n{answer}<|im_end|>",
        thought=_thinks("<|im_end|>", before=""),
        plain=_THINK,
    ),
    Family("deepseek-r1", _R1.replace("ASK", ""), ("<b>", "<e>", "<|User|>", "<|Assistant|>"), _ends("<e>"),
           bos="<b>", eos="<e>", plain=_THINK),
    Family(
        "deepseek-r1 thinking",
        _R1.replace("ASK", "<think>\n"),
        ("<b>", "<e>", "<|User|>", "<|Assistant|>"),
        lambda answer: f"\n</think>\n\n{answer}<e>",
        thought=_thinks("<e>", before=""),
        bos="<b>",
        eos="<e>",
        plain=_THINK,
    ),
    Family("deepseek-v2", _DEEPSEEK_V2, ("<b>", "<e>"), lambda answer: f" {answer}<e>", bos="<b>", eos="<e>"),
    Family("phi-3", _PHI3, ("<|end|>", "<|endoftext|>", *_HEADERS), _ends("<|end|>"), eos="<|endoftext|>"),
    Family("phi-4", "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}"
           "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
           ("<|im_sep|>", *_IM), _ends("<|im_end|>")),
    Family("mistral v1", _ALTERNATE + _MISTRAL, _BOS_EOS, lambda answer: f" {answer}</s>", system=False, bos="<s>",
           eos="</s>"),
    Family("mistral v3", MISTRAL_ASKED_LAST, ("[INST]", "[/INST]", *_BOS_EOS), lambda answer: f" {answer}</s>",
           bos="<s>", eos="</s>"),
    Family(
        "mistral v7 tools",
        _MISTRAL_TOOLS,
        ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[ARGS]", "[TOOL_RESULTS]",
         "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", *_BOS_EOS),
        _ends("</s>"),
        called=lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{arguments}</s>",
        bos="<s>",
        eos="</s>",
    ),
    Family("llama-2", _LLAMA2, _BOS_EOS, lambda answer: f" {answer} </s>", bos="<s>", eos="</s>"),
    Family("llama-3", _LLAMA3, ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
           _ends("<|eot_id|>"), bos="<|begin_of_text|>"),
    Family("gemma 1", "{{ bos_token }}" + _ALTERNATE + _GEMMA, ("<bos>", "<start_of_turn>", "<end_of_turn>"),
           _ends("<end_of_turn>"), system=False, bos="<bos>"),
    Family("gemma 2", _ALTERNATE + "{{ bos_token }}" + _GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
           _ends("<end_of_turn>"), system=False, bos="<bos>", eos="<eos>"),
    Family(
        "gemma 3",
        "{{ bos_token }}" + _FIRST_SYSTEM + "{% for m in rest %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' "
        "else m.role) + '\n' + ((system + '\n\n') if loop.first and system else '') + (m.content | trim) + "
        "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        _ends("<end_of_turn>"),
        bos="<bos>",
    ),
    Family("zephyr", _ZEPHYR, ("</s>", *_HEADERS), lambda answer: f"\n{answer}</s>", eos="</s>"),
    Family("vicuna", _VICUNA, _BOS_EOS, lambda answer: f" {answer}</s>", bos="<s>", eos="</s>"),
    Family("alpaca", _ALPACA, _BOS_EOS, _ends("</s>"), eos="</s>"),
    Family("internlm 2", "{{ bos_token }}" + _chatml(), ("<s>", "</s>", *_IM), _ends("<|im_end|>"), bos="<s>"),
    Family("yi", _chatml(), ("<|startoftext|>", "<|endoftext|>", *_IM), _ends("<|im_end|>"), eos="<|endoftext|>"),
    Family("falcon", _FALCON, ("<|endoftext|>",), _ends("<|endoftext|>"), eos="<|endoftext|>"),
    Family(
        "harmony",
        _HARMONY,
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
        lambda answer: f"<|channel|>final<|message|>{answer}<|return|>",
        thought=lambda thought, answer: f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>"
        f"final<|message|>{answer}<|return|>",
        called=lambda name, arguments: f"<|channel|>commentary to=functions.{name}<|message|>{arguments}<|call|>",
    ),
    Family("glm-4", _GLM4, ("[gMASK]", "<sop>", *_HEADERS), _ends("<|user|>")),
    Family("command-r", _COMMAND_R,
           ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>"), _ends("<|END_OF_TURN_TOKEN|>"), bos="<BOS_TOKEN>"),
    Family("command-a", _COMMAND_A,
           ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
           lambda answer: f"<|START_RESPONSE|>{answer}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", bos="<BOS_TOKEN>"),
    Family("granite", _GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), _ends("<|end_of_text|>")),
    Family("olmo", _OLMO, ("<|endoftext|>", *_HEADERS), _ends("<|endoftext|>"), bos="<|endoftext|>",
           eos="<|endoftext|>"),
    Family(
        "smollm3",
        _SMOLLM3,
        _IM,
        _ends("<|im_end|>"),
        thought=_thinks("<|im_end|>", after="\n</think>\n"),
        plain=_THINK,
    ),
    Family("baichuan", _BAICHUAN, ("<reserved_106>", "<reserved_107>", *_BOS_EOS), _ends("</s>"), eos="</s>"),
    Family("minicpm", _MINICPM, ("<用户>", "<AI>", *_BOS_EOS), _ends("</s>"), system=False, eos="</s>"),
    Family("hermes", _HERMES, _IM, _ends("<|im_end|>"), called=_hermes),
    Family("starchat", _STARCHAT, ("<|end|>", *_HEADERS), _ends("<|end|>")),
    Family("openchat", _OPENCHAT, ("<s>", "<|end_of_turn|>"), lambda answer: f" {answer}<|end_of_turn|>", bos="<s>"),
    Family("label after a space", _SPACE, _IM, _ends("<|im_end|>")),
]  # fmt: skip
