"""The OpenAI Python package against a running server: `WHARF_URL` names it, `cargo xtask ci` starts it.

`WHARF_KEYED_URL` and `WHARF_KEY` name a server that asks for a key and one that it takes; `WHARF_TOOLS_URL` (with
`WHARF_KEY`, if that is set) one whose model calls tools whenever it must. Tests that need them are ignored without.

Every function whose name begins with `test_` is one test. The last line counts them in the words of Rust's
test harness, so that one summary can add up both.
"""

import json
import os
import sys
import traceback

import openai

KEYED_URL, KEY, TOOLS_URL = (os.environ.get(f"WHARF_{name}") for name in ("KEYED_URL", "KEY", "TOOLS_URL"))


def at(url, key="not needed"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)


client = at(os.environ["WHARF_URL"])
MODEL = client.models.list().data[0].id
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"place": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"}},
    "required": ["place"],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"get_{name}",
            "description": f'The {name} in a place; "now" if no day is given',
            "parameters": PARAMETERS,
        },
    }
    for name in ("weather", "time")
]
MUST_CALL = dict(
    messages=[{"role": "user", "content": "What is it like in Zürich?"}], tools=TOOLS, tool_choice="required"
)


def fails_with(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def test_models_can_be_listed_and_retrieved():
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_chat_completes_with_usage():
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=40, temperature=0)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content.strip(), choice
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 40
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_streaming_gives_the_same_text_and_usage_last():
    ask = dict(model=MODEL, messages=QUESTION, max_tokens=40, temperature=0)
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_seed_repeats_an_answer():
    ask = dict(model=MODEL, messages=QUESTION, max_tokens=30, temperature=1.0, seed=7)
    first, second = (client.chat.completions.create(**ask).choices[0].message.content for _ in range(2))
    assert first == second


def test_stop_strings_end_the_answer_and_stay_out_of_it():
    ask = dict(model=MODEL, messages=QUESTION, max_tokens=60, temperature=0)
    whole = client.chat.completions.create(**ask).choices[0].message.content
    stop = whole.split()[2]
    cut = client.chat.completions.create(**ask, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == whole[: whole.index(stop)]


def test_several_choices():
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, n=3, seed=1, temperature=1.0)
    assert sorted(choice.index for choice in answer.choices) == [0, 1, 2]


def test_chat_logprobs():
    answer = client.chat.completions.create(
        model=MODEL, messages=QUESTION, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert 0 < len(tokens) <= 5
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        best = max(token.top_logprobs, key=lambda candidate: candidate.logprob)
        assert best.token == token.token, "greedy decoding takes the likeliest token"


def test_completions():
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=16, temperature=0, logprobs=2)
    choice = answer.choices[0]
    assert choice.text and answer.usage.completion_tokens <= 16
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)


def test_completions_stream():
    chunks = client.completions.create(model=MODEL, prompt="One, two,", max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def test_an_unknown_model_is_not_found():
    error = fails_with(
        openai.NotFoundError, lambda: client.chat.completions.create(model="no-such-model", messages=QUESTION)
    )
    assert error.code == "model_not_found", error.body


def test_a_bad_parameter_is_named():
    error = fails_with(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=-1),
    )
    assert error.param == "max_tokens", error.body


def test_a_prompt_beyond_the_context_is_refused():
    long = [{"role": "user", "content": "word " * 200_000}]
    error = fails_with(
        openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=long)
    )
    assert error.code == "context_length_exceeded", error.body


def test_leaving_a_stream_early_leaves_the_server_well():
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=500, stream=True)
    next(iter(stream))
    stream.close()
    test_a_chat_completes_with_usage()


def only_with(value):
    """Marks a test that is ignored where this is not given."""

    def mark(test):
        test.ignored = not value
        return test

    return mark


@only_with(KEYED_URL and KEY)
def test_a_wrong_key_is_an_authentication_error():
    error = fails_with(openai.AuthenticationError, lambda: at(KEYED_URL, "wrong").models.list())
    assert error.status_code == 401 and error.code == "invalid_api_key", error.body


@only_with(KEYED_URL and KEY)
def test_the_right_key_is_let_in():
    keyed = at(KEYED_URL, KEY)
    model = keyed.models.list().data[0].id
    answer = keyed.chat.completions.create(model=model, messages=QUESTION, max_tokens=4)
    assert answer.choices[0].message.content


def with_tools():
    """The chats of a client whose model calls tools, and that model."""
    tools = at(TOOLS_URL, KEY or "not needed")
    return tools.chat.completions, tools.models.list().data[0].id


def called_both(calls):
    """What must be true of the calls of `MUST_CALL`, however they came: (id, name, arguments) of each."""
    ids, names, arguments = zip(*calls)
    assert names == ("get_weather", "get_time") and len(set(ids)) == 2 and all(ids), calls
    for parsed in map(json.loads, arguments):
        assert {name: type(value) for name, value in parsed.items()} == {"place": str, "days": int, "exact": bool}


@only_with(TOOLS_URL)
def test_tools_that_must_be_called_are_called():
    chats, model = with_tools()
    choice = chats.create(model=model, **MUST_CALL).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    called_both([(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls])


@only_with(TOOLS_URL)
def test_a_streamed_tool_call_comes_in_pieces_that_make_the_whole():
    chats, model = with_tools()
    chunks = list(chats.create(model=model, **MUST_CALL, stream=True))
    heads, pieces = {}, {}
    for delta in (delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or []):
        if delta.id:
            assert delta.index not in heads and delta.type == "function", delta
            heads[delta.index] = (delta.id, delta.function.name)
        pieces.setdefault(delta.index, []).append(delta.function.arguments or "")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert list(heads) == [0, 1] and all(len([piece for piece in some if piece]) > 1 for some in pieces.values()), pieces
    streamed = {index: "".join(some) for index, some in pieces.items()}
    called_both([(*heads[index], streamed[index]) for index in heads])
    whole = chats.create(model=model, **MUST_CALL).choices[0].message.tool_calls
    assert [call.function.arguments for call in whole] == [streamed[0], streamed[1]]


@only_with(TOOLS_URL)
def test_a_named_function_is_the_one_that_is_called_and_its_result_goes_back():
    chats, model = with_tools()
    named = {"type": "function", "function": {"name": "get_time"}}
    message = chats.create(model=model, **{**MUST_CALL, "tool_choice": named}).choices[0].message
    assert [call.function.name for call in message.tool_calls] == ["get_time"]
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"time": "12:00"}'}
    messages = [*MUST_CALL["messages"], message, result]
    last = chats.create(model=model, messages=messages, tools=TOOLS, tool_choice="none").choices[0].message
    assert last.content and not last.tool_calls


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
    ignored = [name for name, test in tests.items() if getattr(test, "ignored", False)]
    for name in ignored:
        del tests[name]
        print(f"test {name} ... ignored")
    failed = 0
    for name, test in tests.items():
        try:
            test()
            print(f"test {name} ... ok", flush=True)
        except Exception:
            failed += 1
            print(f"test {name} ... FAILED", flush=True)
            traceback.print_exc()
    word = "FAILED" if failed else "ok"
    counts = f"{len(tests) - failed} passed; {failed} failed; {len(ignored)} ignored"
    print(f"test result: {word}. {counts}; openai {openai.__version__}")
    sys.exit(1 if failed else 0)


main()
