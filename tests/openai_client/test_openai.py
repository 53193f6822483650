"""The OpenAI Python package against a running server: `WHARF_URL` names it, `cargo xtask ci` starts it.

Every function whose name begins with `test_` is one test. The last line counts them in the words of Rust's
test harness, so that one summary can add up both.
"""

import os
import sys
import traceback

import openai

URL = os.environ["WHARF_URL"] + "/v1"
client = openai.OpenAI(base_url=URL, api_key="not needed", max_retries=0, timeout=120)
MODEL = client.models.list().data[0].id
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


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


def main():
    tests = {name: test for name, test in globals().items() if name.startswith("test_")}
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
    print(f"test result: {word}. {len(tests) - failed} passed; {failed} failed; openai {openai.__version__}")
    sys.exit(1 if failed else 0)


main()
