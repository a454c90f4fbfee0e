"""OpenAI's own SDK works against the hub, unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.hub import HubProcess

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello there"}]


def sdk_of(hub: HubProcess, key: str) -> OpenAI:
    return OpenAI(base_url=f"{hub.url}/v1", api_key=key, max_retries=0, timeout=20)


@pytest.fixture
def sdk(hub: HubProcess) -> Iterator[OpenAI]:
    with sdk_of(hub, hub.key) as client:
        yield client


def test_create_answers_whole(sdk: OpenAI) -> None:
    completion = sdk.chat.completions.create(model="echo", messages=HELLO)
    assert completion.choices[0].message.content == "Hello there"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 19
    assert str(completion._request_id).startswith("req_")


def test_create_streams(sdk: OpenAI) -> None:
    stream = sdk.chat.completions.create(model="echo", messages=HELLO, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_stream_helper_puts_the_answer_together(sdk: OpenAI) -> None:
    options = {"include_usage": True}
    with sdk.chat.completions.stream(model="echo", messages=HELLO, stream_options=options) as stream:  # type: ignore[arg-type]
        final = stream.get_final_completion()
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].message.content == "Hello there"
    assert final.usage is not None


async def test_async_client_streams(hub: HubProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{hub.url}/v1", api_key=hub.key, max_retries=0, timeout=20) as sdk:
        stream = await sdk.chat.completions.create(model="echo", messages=HELLO, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == "Hello there"


def test_models_are_listed_and_found_one_by_one(sdk: OpenAI) -> None:
    assert {model.id for model in sdk.models.list()} == {"auto", "echo", "echo/echo"}
    assert sdk.models.retrieve("echo/echo").owned_by == "echo"


def test_wrong_key_is_an_authentication_error(hub: HubProcess) -> None:
    with sdk_of(hub, "hub_wrong") as sdk, pytest.raises(openai.AuthenticationError) as caught:
        sdk.chat.completions.create(model="echo", messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert "hub_wrong" not in str(caught.value)
    assert str(caught.value.request_id).startswith("req_")


def test_unknown_model_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="gpt-4", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_unsupported_parameter_is_a_bad_request(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="echo", messages=HELLO, n=2)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "n")


def test_worker_that_dies_is_a_server_error_with_its_code(sdk: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.create(model="echo", messages=[{"role": "user", "content": "[[do=crash]]"}])
    assert (caught.value.status_code, caught.value.code) == (502, "worker_crashed")


def test_failure_in_the_middle_of_a_stream_raises_what_went_wrong(sdk: OpenAI) -> None:
    """A stream that merely ended would be taken for a whole answer."""
    stream = sdk.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "[[do=crash]] one two"}], stream=True
    )
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "worker_crashed"
