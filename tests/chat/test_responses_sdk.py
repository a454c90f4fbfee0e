"""OpenAI's own SDK works against /v1/responses, unchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response
from pydantic import BaseModel

from chat.ids import new_id
from tests.asking import WAIT_S, eventually
from tests.hub import HubProcess

SLOW = "[[chunks=100 delay=0.1]] slowly"


def sdk_of(hub: HubProcess, key: str) -> OpenAI:
    return OpenAI(base_url=f"{hub.url}/v1", api_key=key, max_retries=0, timeout=20)


@pytest.fixture
def sdk(hub: HubProcess) -> Iterator[OpenAI]:
    with sdk_of(hub, hub.key) as client:
        yield client


def said(sdk: OpenAI, response: Response) -> list[str]:
    """What the model was shown in the turns of the response's session, and its answers."""
    assert response.conversation is not None
    body = sdk.get(f"/sessions/{response.conversation.id}", cast_to=object)
    return [message["content"] for message in body["messages"]]  # type: ignore[index]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_create_answers_whole(sdk: OpenAI) -> None:
    response = sdk.responses.create(model="echo", input="Hello there", instructions="Be brief.", metadata={"run": "1"})
    assert (response.output_text, response.status, response.model) == ("Hello there", "completed", "echo")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (11, 8, 19)
    assert (response.instructions, response.metadata, response.store) == ("Be brief.", {"run": "1"}, True)  # type: ignore[attr-defined]
    assert abs(response.created_at - time.time()) < WAIT_S
    assert str(response._request_id).startswith("req_")


def test_create_streams(sdk: OpenAI) -> None:
    events = list(sdk.responses.create(model="echo", input="Hello there", stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "Hello there"
    assert len(deltas) > 1
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "Hello there"


def test_stream_helper_puts_the_answer_together(sdk: OpenAI) -> None:
    with sdk.responses.stream(model="echo", input="Hello there") as stream:
        texts = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert texts[-1] == final.output_text == "Hello there"
    assert final.usage is not None


async def test_async_client_streams(hub: HubProcess) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{hub.url}/v1", api_key=hub.key, max_retries=0, timeout=20) as sdk,
        sdk.responses.stream(model="echo", input="Hello there") as stream,
    ):
        assert (await stream.get_final_response()).output_text == "Hello there"


def test_answer_cut_by_the_token_limit_is_incomplete(sdk: OpenAI) -> None:
    response = sdk.responses.create(model="echo", input="abcdefgh", max_output_tokens=3)
    assert (response.output_text, response.status) == ("abc", "incomplete")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    kept = sdk.responses.retrieve(response.id)
    assert (kept.status, kept.output_text) == ("incomplete", "abc")
    assert kept.incomplete_details == response.incomplete_details
    *_, last = sdk.responses.create(model="echo", input="abcdefgh", max_output_tokens=3, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.output_text == "abc"


# --- conversations ---------------------------------------------------------------------------------------------------


def test_previous_response_is_gone_on_from_in_the_same_session(sdk: OpenAI) -> None:
    first = sdk.responses.create(model="echo", input="one")
    second = sdk.responses.create(model="echo", input="two", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.conversation == first.conversation
    assert said(sdk, second) == ["one", "one", "two", "two"]


def test_going_on_from_an_earlier_response_branches_off(sdk: OpenAI) -> None:
    """Nobody else's conversation changes by that, and nobody's answer is seen by the other."""
    first = sdk.responses.create(model="echo", input="one")
    second = sdk.responses.create(model="echo", input="two", previous_response_id=first.id)
    branch = sdk.responses.create(model="echo", input="three", previous_response_id=first.id)
    assert branch.conversation != second.conversation
    assert said(sdk, branch) == ["one", "one", "three", "three"]
    assert said(sdk, second) == ["one", "one", "two", "two"]
    third = sdk.responses.create(model="echo", input="four", previous_response_id=branch.id)
    assert said(sdk, third) == ["one", "one", "three", "three", "four", "four"]


async def test_those_that_go_on_from_one_response_at_once_do_not_see_each_other(hub: HubProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{hub.url}/v1", api_key=hub.key, max_retries=0, timeout=20) as sdk:
        first = await sdk.responses.create(model="echo", input="one")
        asked = [f"[[chunks=3 delay=0.1]] {n}" for n in range(4)]
        answers = await asyncio.gather(
            *(sdk.responses.create(model="echo", input=text, previous_response_id=first.id) for text in asked)
        )
        assert len({answer.conversation.id for answer in answers if answer.conversation}) == 4
        for text, answer in zip(asked, answers, strict=True):
            body = await sdk.get(f"/sessions/{answer.conversation.id}", cast_to=object)  # type: ignore[union-attr]
            questions = [it["content"] for it in body["messages"] if it["role"] == "user"]  # type: ignore[index]
            assert questions == ["one", text]


def test_instructions_are_the_sessions_unless_others_are_given(sdk: OpenAI) -> None:
    first = sdk.responses.create(model="echo", input="one", instructions="Be brief.")
    second = sdk.responses.create(model="echo", input="two", previous_response_id=first.id)
    assert said(sdk, second)[0] == "Be brief."
    third = sdk.responses.create(model="echo", input="two", previous_response_id=second.id, instructions="Be long.")
    assert said(sdk, third)[0] == "Be long."


@pytest.mark.parametrize("as_object", [False, True])
def test_conversation_names_the_session(sdk: OpenAI, as_object: bool) -> None:
    session_id = f"conv_{new_id()}"
    for text in ("one", "two"):
        response = sdk.responses.create(
            model="echo", input=text, conversation={"id": session_id} if as_object else session_id
        )
    assert response.conversation is not None
    assert response.conversation.id == session_id
    assert said(sdk, response) == ["one", "one", "two", "two"]


def test_history_sent_along_is_seen_once(sdk: OpenAI) -> None:
    session_id = f"conv_{new_id()}"
    sdk.responses.create(model="echo", input="one", conversation=session_id)
    history = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "one"}]
    asked = [*history, {"role": "user", "content": "two"}]
    response = sdk.responses.create(model="echo", input=asked, conversation=session_id)  # type: ignore[arg-type]
    assert said(sdk, response) == ["one", "one", "two", "two"]


def test_nothing_is_kept_of_what_is_not_to_be_stored(sdk: OpenAI) -> None:
    first = sdk.responses.create(model="echo", input="one")
    second = sdk.responses.create(model="echo", input="two", previous_response_id=first.id, store=False)
    assert (second.output_text, second.store, second.conversation) == ("two", False, None)  # type: ignore[attr-defined]
    assert said(sdk, first) == ["one", "one"]
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(second.id)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="echo", input="three", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"


# --- fetched later ---------------------------------------------------------------------------------------------------


def test_retrieved_response_is_the_one_that_was_answered(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input="Hello there")
    found = sdk.responses.retrieve(created.id)
    assert found.output == created.output
    assert found.output_text == "Hello there"
    same = ("id", "status", "model", "created_at", "conversation", "error", "incomplete_details")
    assert {name: getattr(found, name) for name in same} == {name: getattr(created, name) for name in same}
    assert found.usage is not None
    assert found.usage.total_tokens == 19


def test_input_items_are_what_was_asked(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input=[{"role": "user", "content": text} for text in ("one", "two")])
    items = list(sdk.responses.input_items.list(created.id, order="asc"))
    assert [item.content[0].text for item in items] == ["one", "two"]  # type: ignore[union-attr, index]
    assert [it.id for it in sdk.responses.input_items.list(created.id, limit=1)] == [it.id for it in reversed(items)]


def test_deleted_response_is_gone_with_its_session(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input="one")
    sdk.responses.delete(created.id)
    for again in (sdk.responses.retrieve, sdk.responses.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            again(created.id)
        assert caught.value.code == "response_not_found"
    assert created.conversation is not None
    with pytest.raises(openai.NotFoundError):
        sdk.get(f"/sessions/{created.conversation.id}", cast_to=object)


def test_response_among_others_is_not_deleted_alone(sdk: OpenAI) -> None:
    first = sdk.responses.create(model="echo", input="one")
    second = sdk.responses.create(model="echo", input="two", previous_response_id=first.id)
    for response in (first, second):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.responses.delete(response.id)
        assert "DELETE /v1/sessions/" in str(caught.value)
    assert sdk.responses.retrieve(first.id).output_text == "one"


# --- in the background -----------------------------------------------------------------------------------------------


def test_background_answer_is_fetched_once_it_is_complete(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input="[[chunks=3 delay=0.2]] later", background=True)
    assert (created.status, created.output, created.background) == ("queued", [], True)
    assert sdk.responses.retrieve(created.id).status in ("queued", "in_progress")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.delete(created.id)
    assert "cancel it first" in str(caught.value)
    eventually(lambda: sdk.responses.retrieve(created.id).status == "completed")
    found = sdk.responses.retrieve(created.id)
    assert found.output_text.endswith("later")
    assert found.background is True
    assert sdk.responses.cancel(created.id).status == "completed"
    follow_up = sdk.responses.create(model="echo", input="two", previous_response_id=created.id)
    assert follow_up.conversation == found.conversation


def test_background_answer_can_be_cancelled_more_than_once(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input=SLOW, background=True)
    eventually(lambda: sdk.responses.retrieve(created.id).status == "in_progress")
    assert sdk.responses.cancel(created.id).status == "cancelled"
    assert sdk.responses.cancel(created.id).status == "cancelled"
    assert sdk.responses.retrieve(created.id).status == "cancelled"
    sdk.responses.delete(created.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(created.id)


def test_cancelled_answer_is_not_gone_on_from(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input=SLOW, background=True)
    sdk.responses.cancel(created.id)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="echo", input="two", previous_response_id=created.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_failure_in_the_background_is_told_with_its_code(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input="[[do=crash]]", background=True)
    eventually(lambda: sdk.responses.retrieve(created.id).status == "failed")
    error = sdk.responses.retrieve(created.id).error
    assert error is not None
    assert error.code == "worker_crashed"  # type: ignore[comparison-overlap]


def test_failure_before_the_background_has_a_status(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.responses.create(model="gpt-4", input="Hi", background=True)
    assert caught.value.code == "model_not_found"


def test_only_background_answers_are_cancelled(sdk: OpenAI) -> None:
    created = sdk.responses.create(model="echo", input="one")
    with pytest.raises(openai.BadRequestError):
        sdk.responses.cancel(created.id)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_wrong_key_is_an_authentication_error(hub: HubProcess) -> None:
    with sdk_of(hub, "hub_wrong") as sdk, pytest.raises(openai.AuthenticationError) as caught:
        sdk.responses.create(model="echo", input="Hi")
    assert caught.value.code == "invalid_api_key"


def test_unknown_model_is_not_found(sdk: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.responses.create(model="gpt-4", input="Hi")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_tool_the_hub_does_not_have_is_a_bad_request_that_names_it(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(model="echo", input="Hi", tools=[{"type": "web_search"}])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools[0].type")
    assert "web_search" in str(caught.value)


def test_schema_that_the_provider_can_not_serve_is_a_bad_request(sdk: OpenAI) -> None:
    class Point(BaseModel):
        x: int

    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.parse(model="echo", input="Hi", text_format=Point)
    assert caught.value.code == "response_format_not_supported"


def test_worker_that_dies_is_a_server_error_with_its_code(sdk: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.responses.create(model="echo", input="[[do=crash]]")
    assert (caught.value.status_code, caught.value.code) == (502, "worker_crashed")


def test_failure_in_the_middle_of_a_stream_raises_what_went_wrong(sdk: OpenAI) -> None:
    stream = sdk.responses.create(model="echo", input="[[do=crash]] one two", stream=True)
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "worker_crashed"
    with sdk.responses.stream(model="echo", input="[[do=crash]] one two") as helper, pytest.raises(openai.APIError):
        helper.get_final_response()


def test_failed_response_comes_before_the_error(sdk: OpenAI) -> None:
    types = []
    with pytest.raises(openai.APIError):
        for event in sdk.responses.create(model="echo", input="[[do=crash]] one two", stream=True):
            types.append(event.type)
    assert types[-1] == "response.failed"
    assert "response.completed" not in types
