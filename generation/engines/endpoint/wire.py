"""The JSON that an OpenAI-compatible endpoint gets and returns: made from requests, and read into replies."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from gristmill.cluster.contract.chat import to_openai, tools_to_openai
from gristmill.cluster.models.engine import LOOP, Conversation, Reply, Write
from gristmill.generation.engines import parsing
from gristmill.generation.engines.endpoint.http import Answer

OPTIONAL = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "seed",
    "stop",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "response_format",
    "structured_outputs",
    "repetition_detection",
    "continue_final_message",
    "add_generation_prompt",
    "stream",
    "stream_options",
)
"""Parameters that are left out when an endpoint refuses them."""
GOES_WITH = {"logprobs": "top_logprobs", "continue_final_message": "add_generation_prompt", "stream": "stream_options"}
UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecognized|unknown|unexpected|extra_forbidden|extra (inputs|fields)|not permitted"
    r"|not allowed|invalid (parameter|argument)|deprecated|not available|use 'max_completion_tokens'",
    re.IGNORECASE,
)
BAD_SCHEMA = re.compile(r"invalid_json_schema|invalid schema|grammar|compile", re.IGNORECASE)
TOO_LONG = re.compile(
    r"context.?length|maximum context|context window|too long|max_model_len|reduce the length|longer than the max",
    re.IGNORECASE,
)
FINISHES = {"stop": "stop", "length": "length", "repetition": "repetition", "eos": "stop", "eos_token": "stop"}
Form = Literal["plain", "flags", "prefix"]
SchemaForm = Literal["json_schema", "json_object"]
SCHEMA_FORMS: tuple[SchemaForm, ...] = ("json_schema", "json_object")
FORMS: dict[Form, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "flags": ({}, {"continue_final_message": True, "add_generation_prompt": False}),
    "prefix": ({"prefix": True}, {}),
}
"""Ways to ask a server to continue the last turn, as (keys of that turn, parameters). llama.cpp needs neither, vLLM and
SGLang have flags, DeepSeek and Mistral have a key."""
TOP_LOGPROBS = 20
"""Number of alternatives requested for each token of a choice. OpenAI returns no more than this."""
ONLY_VLLM = "serve the model with vLLM, or run it in process"
END_OF_CHOICE = re.compile(r"[\"'*`”]*(\Z|\n|[.,;:!)](\s|\Z)|[。，；：！）])")
MOST_TOKENS = 1 << 30
"""Largest count of tokens that is believed. A larger count is an error of the server and is reduced to this."""
Steps = Sequence[tuple[str, Mapping[str, float]]]
"""For each token of a reply: the token, and the probabilities of its alternatives."""
Spelled = tuple[str, ...]
"""A text as its letters or as the names of its tokens."""


def chat(
    request: Write, model: str, form: Form, kwargs: Mapping[str, Any] | None = None, *, vllm: bool = False
) -> dict[str, Any]:
    """Return the payload of one chat completion without its constraint.

    `form` is the way to continue the last turn. `kwargs` are the engine's `chat_template_kwargs`.
    """
    messages = [to_openai(m) for m in request.messages]
    payload: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": request.max_tokens}
    payload |= {"seed": request.seed, "temperature": request.temperature}
    if request.top_p != 1:
        payload["top_p"] = request.top_p
    if request.min_p and request.temperature:
        payload["min_p"] = request.min_p
    if request.presence_penalty:
        payload["presence_penalty"] = request.presence_penalty
    if request.stop:
        payload["stop"] = list(request.stop)
    if request.logprobs:
        payload["logprobs"] = True
    if request.stop_loops and vllm:
        payload["repetition_detection"] = LOOP
    payload |= template_parts(request, kwargs)
    return payload | begun(request, form)


def template_parts(request: Conversation, kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the parameters that the chat template gets in addition to the turns: tools, and other arguments."""
    own = json.loads(request.chat_template_kwargs) if request.chat_template_kwargs else {}
    whole = {**(kwargs or {}), **own}
    parts: dict[str, Any] = {"chat_template_kwargs": whole} if whole else {}
    return {**parts, "tools": tools_to_openai(request.tools)} if request.tools else parts


def begun(request: Conversation, form: Form) -> dict[str, Any]:
    """Return the parameters, with the turns, that make a server continue a turn; none if no turn has begun."""
    if not request.prefix and request.role == "assistant":
        return {}
    keys, flags = FORMS[form]
    turn = {"role": request.role, "content": request.prefix, **keys}
    return {"messages": [*map(to_openai, request.messages), turn], **flags}


def schema(name: str, value: Mapping[str, Any], form: SchemaForm) -> dict[str, Any]:
    """Return the `response_format` for a JSON schema."""
    if form == "json_object":
        return {"type": form, "schema": value}
    return {"type": "json_schema", "json_schema": {"name": name, "schema": value, "strict": True}}


def choice_schema(choices: Sequence[str], form: SchemaForm) -> dict[str, Any]:
    """Return the `response_format` for a reply that is one of several words, for servers that only constrain JSON."""
    field = {"type": "string", "enum": list(choices)}
    return schema(
        "choice",
        {"type": "object", "properties": {"choice": field}, "required": ["choice"], "additionalProperties": False},
        form,
    )


def constraint(request: Write, form: SchemaForm | Literal[""]) -> dict[str, Any]:
    """Return the parameters that force a reply to match a schema or an expression.

    Without a form, a schema gets no parameters.

    Raises:
        ValueError: when the schema is not JSON.
    """
    if request.json_schema:
        value = json.loads(request.json_schema)
        return {"response_format": schema("reply", value, form)} if form else {}
    return {"structured_outputs": {"regex": request.regex}} if request.regex else {}


def learn(answer: Answer, payload: Mapping[str, Any]) -> str:
    """Return the name of the parameter that made the endpoint refuse a call, or the empty string."""
    if TOO_LONG.search(answer.refusal) or BAD_SCHEMA.search(f"{answer.code} {answer.refusal}"):
        return ""
    if not UNSUPPORTED.search(f"{answer.code} {answer.refusal}"):
        return ""
    sent = [name for name in OPTIONAL if name in payload]
    if answer.param.split(".")[-1] in sent:
        return answer.param.split(".")[-1]
    return next((name for name in sent if _named(name, answer.refusal)), "")


def _named(name: str, text: str) -> bool:
    """Return whether a sentence names a parameter, and does not just use the same word."""
    quoted = rf"['\"`\[]{name}['\"`\]]"
    plain = rf"\b{name}\b" if "_" in name else rf"(param(eter)?|argument|field)s?( supplied)?:? {name}\b"
    return re.search(f"{quoted}|{plain}", text) is not None


def refusal_reply(answer: Answer) -> Reply:
    """Return the reply to a call that the endpoint refuses."""
    if TOO_LONG.search(f"{answer.code} {answer.refusal}"):
        return Reply("", "error: prompt and reply are longer than the model's context", 0, 0)
    what = answer.refusal[:160] if not answer.status else f"{answer.status} {answer.refusal[:160]}"
    return Reply("", f"error: {what}", 0, 0)


def read(body: Mapping[str, Any], request: Write) -> Reply:
    """Return the reply of a chat completion, with text, thought and calls of tools in separate fields."""
    choice = first_choice(body)
    if choice is None:
        return Reply("", "error: the endpoint's answer has no choices", 0, 0)
    message = _mapping(choice.get("message"))
    text, reasoning = said(message)
    if request.prefix and text.startswith(request.prefix):  # this server repeats the prefix
        text = text[len(request.prefix) :]
    finish = choice.get("finish_reason")
    finish = "error: the endpoint's content filter" if finish == "content_filter" else FINISHES.get(str(finish), "stop")
    prompt, written, cached = usage(body)
    tokens = _tokens(choice)
    logprob = sum(_number(token["logprob"]) for token in tokens) if tokens and request.logprobs else None
    reply = Reply(text, finish, prompt, written, cached_tokens=cached, logprob=logprob, reasoning=reasoning)
    return _called(reply, message, request)


def _called(reply: Reply, message: Mapping[str, Any], request: Write) -> Reply:
    """Return a reply with its calls of tools; a reply is refused if a row cannot hold its calls."""
    try:
        calls = parsing.read_calls(message.get("tool_calls"))
    except parsing.CallsError as error:
        cut = reply.finish == "length"
        return replace(reply, text="", reasoning="", finish=reply.finish if cut else f"error: {error}")
    if calls and not request.tools:
        return replace(reply, text="", reasoning="", finish="error: the reply calls a tool, where there is none")
    if request.tools and not calls and parsing.unparsed(reply.text):
        how = f"{parsing.NOT_PARSED} the server's parser of tool calls"
        return replace(reply, text="", reasoning="", finish=how)
    return replace(reply, tool_calls=calls) if calls else reply


def said(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text and the thoughts of a message, from all places where servers put them."""
    text, thoughts = _parts(message.get("content"))
    for name in ("reasoning", "reasoning_content"):
        value = message.get(name)
        if isinstance(value, str) and value.strip() and value not in thoughts:
            thoughts.append(value)
    text, thought = parsing.split_thought(text)
    thoughts.append(thought)
    return text, "\n\n".join(thought.strip() for thought in thoughts if thought.strip())


def _parts(content: Any) -> tuple[str, list[str]]:  # noqa: ANN401 - JSON from outside
    """Return (the text, the thoughts) of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            texts.append(part)
        for name in ("text", "thinking", "reasoning"):
            value = _mapping(part).get(name)
            inner = value if isinstance(value, str) else _parts(value)[0]
            (texts if name == "text" else thoughts).append(inner)
    return "".join(texts), [thought for thought in thoughts if thought]


def usage(body: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the numbers of (prompt, reply, cached) tokens. If they are not reported, a reply token counts 4 bytes."""
    counts = _mapping(body.get("usage"))
    if not counts:
        text, reasoning = said(_mapping((first_choice(body) or {}).get("message")))
        return 0, max(1, len((text + reasoning).encode(errors="replace")) // 4), 0
    details = _mapping(counts.get("prompt_tokens_details"))
    numbers = (counts.get("prompt_tokens"), counts.get("completion_tokens"), details.get("cached_tokens"))
    prompt, written, cached = (int(min(max(0.0, _number(number)), MOST_TOKENS)) for number in numbers)
    return prompt, written, cached


def _number(value: Any) -> float:  # noqa: ANN401 - JSON from outside
    """Return a number as a float between ±1e30, 0 for anything else."""
    real = isinstance(value, int) or (isinstance(value, float) and not math.isnan(value))
    return float(max(-1e30, min(1e30, value))) if real else 0.0


def first_choice(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the first choice of an answer, or None when the answer is not a completion."""
    choices = body.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401 - JSON from outside
    return value if isinstance(value, dict) else {}


def _tokens(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = _mapping(choice.get("logprobs")).get("content")
    tokens = content if isinstance(content, list) else ()
    return [token for token in tokens if isinstance(token, dict) and "logprob" in token]


def _chance(logprob: Any) -> float:  # noqa: ANN401 - JSON from outside
    """Return the probability of a log-probability, or 0 if the value is no log-probability."""
    return math.exp(_number(logprob)) if isinstance(logprob, int | float) and logprob <= 0 else 0.0


def steps(body: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """Return the tokens of a chat completion with the probabilities of their alternatives; empty without logprobs."""
    found: list[tuple[str, Mapping[str, float]]] = []
    for token in _tokens(first_choice(body) or {}):
        others = token.get("top_logprobs")
        options = {
            str(o.get("token", "")): _chance(o.get("logprob"))
            for o in (others if isinstance(others, list) else ())
            if isinstance(o, dict)
        }
        word = str(token.get("token", ""))
        found.append((word, {word: _chance(token["logprob"]), **options}))
    return found


def json_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice in a reply such as `{"choice": "yes"}`, or None."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return None
    named = value.get("choice") if isinstance(value, dict) else None
    named = str(named) if isinstance(named, int) and not isinstance(named, bool) else named
    return named if isinstance(named, str) and named in choices else None


def said_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a reply makes, or None if it makes none.

    The choice is the value of `choice` in JSON, or the beginning of the reply if a sign or the end of the reply
    follows. So "4.5", "4/10" and "40" are not a 4.
    """
    bare = text.strip().lstrip("\"'*`“")
    ends = (c for c in choices if bare.startswith(c) and END_OF_CHOICE.match(bare[len(c) :]))
    return json_choice(text, choices) or max(ends, key=len, default=None)


def drop_lead(lead: int, tokens: Steps) -> Steps:
    """Return the steps after the first `lead` characters of the text. A token that crosses this border is cut."""
    for place, (said, options) in enumerate(tokens):
        if lead < len(said):
            head = said[:lead]
            rest = {token[lead:]: p for token, p in options.items() if token.startswith(head) and len(token) > lead}
            return [(said[lead:], rest), *tokens[place + 1 :]]
        lead -= len(said)
    return []


def text_chances(text: str, chosen: str, choices: Sequence[str], tokens: Steps) -> dict[str, float]:
    """Return the probability of each choice from the tokens of the reply; without tokens, 1 for the chosen choice."""
    rests = {choice: tuple(choice) for choice in choices}
    spelled: list[tuple[Spelled, Mapping[Spelled, float]]] = []
    key = re.search(r'"choice"\s*:\s*"?', text)
    for said, options in drop_lead(max(0, text.find(chosen, key.end() if key else 0)), tokens):
        merged: dict[Spelled, float] = {}
        for token, p in options.items():  # a token may hold the quote that ends the word in JSON
            letters = tuple(token.partition('"')[0])
            merged[letters] = merged.get(letters, 0.0) + p
        spelled.append((tuple(said.partition('"')[0]), merged))
    return walk(rests, spelled, chosen)


def token_weights(body: Mapping[str, Any], tokens: Sequence[int]) -> dict[int, float]:
    """Return the probabilities of given tokens, which sum up to 1, from a completion of one token; empty if unknown."""
    choice = first_choice(body) or {}
    told = _mapping(choice.get("logprobs")).get("top_logprobs")
    logprobs = dict(_mapping(told[0])) if isinstance(told, list) and told else {}
    others = next(iter(_tokens(choice)), {}).get("top_logprobs")  # of a chat
    for option in others if isinstance(others, list) else ():
        logprobs[str(_mapping(option).get("token"))] = _mapping(option).get("logprob")
    if any(f"token_id:{token}" not in logprobs for token in tokens):
        return {}
    weights = {token: _chance(logprobs[f"token_id:{token}"]) for token in tokens}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()} if total else {}


def walk(
    rests: Mapping[str, Spelled], tokens: Sequence[tuple[Spelled, Mapping[Spelled, float]]], chosen: str
) -> dict[str, float]:
    """Return the probabilities of the choices, which sum up to 1, along the decoded reply.

    Where the choices branch, each choice gets the probability of the tokens with which its rest begins. Several choices
    that leave the decoded reply at the same token share its probability evenly, because the later tokens are unknown.
    """
    found, mass, alive = dict.fromkeys(rests, 0.0), 1.0, dict(rests)
    for said, options in tokens:
        if len(alive) == 1:
            break
        accepts = {token: [c for c, rest in alive.items() if rest[: len(token)] == token] for token in options if token}
        weights = {token: options[token] for token in accepts if accepts[token]}
        ended = [c for c, rest in alive.items() if not rest]
        if ended:  # the choice may end here, with the rest of the probability
            accepts[()], weights[()] = ended, max(0.0, 1.0 - sum(weights.values()))
        went = said if said in weights else ()
        total = sum(weights.values())
        if went not in weights or not total:
            break
        for token, weight in weights.items():
            for choice in accepts[token] if token != went else ():
                found[choice] += mass * weight / total / len(accepts[token])
        mass *= weights[went] / total
        alive = {choice: alive[choice][len(went) :] for choice in accepts[went]}
    found[chosen] += mass
    whole = sum(found.values())
    return {choice: p / whole for choice, p in found.items()}
