"""What is told from a request's text: length, code, languages; and that it costs little, whatever the text."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import pytest

from providers.events import ANY_OBJECT, Media, Message, Tool, Toolbox, ToolCall, ToolResult, Turn
from providers.nature import estimate_tokens, languages_of, looks_like_code, nature_of

CODE = {
    "fence": "Please mend this:\n```\nx + 1\n```\n",
    "python": "def total(items):\n    result = 0\n    for item in items:\n        result += item(1)\n",
    "javascript": "const a = load()\nlet b = a.map(it => it.name);\nconsole.log(b);\n",
    "java": "public class Main {\n  private static int count = 0;\n}\n",
    "c": "#include <stdio.h>\nint main() { return 0; }\n",
    "sql": "SELECT name FROM users WHERE id = 1",
    "trace": "What is this?\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n",
    "diff": "diff --git a/x b/x\n@@ -1 +1 @@\n-a\n+b\n",
    "shell": "#!/bin/sh\necho hi\n",
    "wish": "Write a Python function that reverses a list.",
    "wish in German": "Schreib mir ein Bash-Skript, das alte Dateien löscht.",
    "code behind much talk": "Some talk about it all.\n" * 500 + "```js\nlet a = 1\n```\n",
}
PROSE = {
    "question": "What is the capital of France?",
    "letter": "Dear Sir,\n\nI write to you (as promised) about the class.\nReturn it soon;\n\nYours (Bob)\n",
    "list": "- item one\n- item two (see below)\n- item three\n",
    "conditions": "If you like:\nwe can meet.\nFor me:\nany day is fine.\n",
    "geography": "The Java sea lies between two islands.",
    "json": 'Summarise this order: {\n  "id": 17,\n  "name": "Bob",\n  "items": ["a", "b"]\n}\n',
    "shopping": "Milk (2)\nEggs (12)\nHam (3)\n",
    "recipe": "Let the dough rest.\nImport taxes are not in the price.\nWith love:\nMum\n",
    "spaces": "   \n \t \n",
}
LANGUAGES = {
    "en": "Please summarise this email in two sentences.",
    "de": "Wie kann ich meinen Vertrag kündigen?",
    "fr": "Quelle est la capitale de la France ?",
    "es": "¿Cuál es la capital de Francia?",
    "it": "Riassumi questa email in due frasi.",
    "pt": "Como posso cancelar meu contrato?",
    "nl": "Hoe kan ik mijn contract opzeggen?",
    "pl": "Streść ten e-mail w dwóch zdaniach.",
    "ru": "Кратко изложи это письмо в двух предложениях.",
    "uk": "Стисло виклади цей лист у двох реченнях.",  # noqa: RUF001
    "zh": "请用两句话总结这封邮件。",
    "ja": "このメールを二文で要約してください。",
    "ko": "이 이메일을 두 문장으로 요약해 주세요.",
    "ar": "لخص هذه الرسالة في جملتين.",
    "hi": "फ्रांस की राजधानी क्या है?",
}
# Each would take a careless pattern long.
HOSTILE = {
    "one letter": "a" * 1_000_000,
    "spaces": " " * 1_000_000,
    "lines": "\n" * 1_000_000,
    "tabs": ("\t" * 200 + "\n") * 5_000,
    "brackets": "if (" * 250_000,
    "bracket lines": ("if " + "(" * 200 + "\n") * 5_000,
    "calls": ("a(" * 100 + "\n") * 5_000,
    "assignments": "a.b=" * 250_000,
    "selects": "SELECT " + " FROM" * 200_000,
    "returns": ("return " + ";" * 200 + "x\n") * 5_000,
    "dashes": "a-" * 500_000,
    "chinese": "法国的首都是哪里" * 100_000,
}


def turn(text: str, *, before: tuple[str, ...] = (), system: str = "") -> Turn:
    history = tuple(Message("user" if at % 2 == 0 else "assistant", (it,)) for at, it in enumerate(before))
    return Turn((*history, Message("user", (text,))), system=system)


@pytest.mark.parametrize("text", CODE.values(), ids=CODE)
def test_code_is_seen(text: str) -> None:
    assert looks_like_code(text)


@pytest.mark.parametrize("text", PROSE.values(), ids=PROSE)
def test_prose_is_no_code(text: str) -> None:
    assert not looks_like_code(text)


def test_only_the_last_question_is_judged() -> None:
    assert not nature_of(turn("And in one sentence?", before=("```\ncode\n```", "Fine."))).is_code


def test_tokens_are_of_the_whole_prompt() -> None:
    assert estimate_tokens(turn("x" * 400, before=("y" * 400, "z" * 400), system="s" * 400)) == 400


def test_a_chinese_character_is_nearly_a_token() -> None:
    assert 700 <= estimate_tokens(turn("法" * 1_000)) <= 1_100


def test_sampled_length_is_near_the_counted_one() -> None:
    text = "Nach dem Essen wäre ein Spaziergang schön. " * 10_000
    assert estimate_tokens(turn(text)) == pytest.approx(len(text.encode()) / 4, rel=0.02)


@pytest.mark.parametrize(("code", "text"), LANGUAGES.items(), ids=LANGUAGES)
def test_language_is_told(code: str, text: str) -> None:
    assert languages_of(text)[0] == code


def test_both_languages_of_a_mixed_text_are_told() -> None:
    text = "Bitte übersetze den folgenden Satz für mich ins Deutsche. " + LANGUAGES["ru"]
    assert {"de", "ru"} <= set(languages_of(text))


@pytest.mark.parametrize("text", ["", " \n", "12345 + 678", "\0\0", "\ud800", "🙂🙂"])
def test_text_without_words_has_no_language(text: str) -> None:
    assert languages_of(text) == ()


def test_text_no_library_likes_is_read() -> None:
    assert languages_of("Please \0 summarise\r\nthis \ud800 email in two sentences.")[0] == "en"


def test_languages_are_found_only_if_asked_for() -> None:
    assert nature_of(turn(LANGUAGES["de"])).languages == ()
    assert nature_of(turn(LANGUAGES["de"]), with_languages=True).languages == ("de",)


def test_nothing_is_fetched_to_tell_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    from providers.nature import load_languages

    def refuse(*args: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_languages.cache_clear()
    assert languages_of(LANGUAGES["fr"])[0] == "fr"


def test_what_a_turn_needs_is_of_its_nature() -> None:
    asked = replace(turn("x"), toolbox=Toolbox((Tool("look"),)), json_schema=ANY_OBJECT)
    nature = nature_of(replace(asked, messages=(Message("user", (Media("image/png", "AAAA"),)),)))
    assert (nature.has_images, nature.has_tools, nature.wants_json) == (True, True, True)
    assert nature.media == ("image/png",)
    nature = nature_of(turn("x"))
    assert (nature.has_images, nature.has_tools, nature.wants_json) == (False, False, False)


def test_a_document_is_no_image() -> None:
    nature = nature_of(Turn((Message("user", ("What is it?", Media("application/pdf", "AAAA"))),)))
    assert (nature.has_images, nature.media) == (False, ("application/pdf",))


def test_the_result_of_a_call_is_not_taken_for_the_question() -> None:
    called = Message("assistant", (ToolCall("c", "read", "{}"),))
    result = Message("tool", (ToolResult("c", ("def f():\n    return 1;\nx = 2;\n",)),))
    assert not nature_of(Turn((Message("user", ("What does it do?",)), called, result))).is_code


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_takes_long(text: str) -> None:
    """A million characters: a pattern that is not linear would take minutes."""
    nature_of(turn("x"), with_languages=True)
    began_at = time.process_time()
    nature_of(turn(text), with_languages=True)
    assert time.process_time() - began_at < 0.5
