"""Queries from a language model behind an OpenAI-compatible chat endpoint (vLLM, Ollama, a hosted one).

Each request asks for queries of one kind about one passage. An answer is kept in the cache by all that was sent for it,
so nothing is asked twice, by whichever collection.
"""

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from stepwell.collection.collection import hash_text
from stepwell.display import counted
from stepwell.endpoint import Endpoint
from stepwell.errors import StepwellError
from stepwell.files import cache, locked

Kind = Literal["question", "keywords", "claim", "how-to"]

KINDS: dict[Kind, str] = {
    "question": "a question that somebody who has not read this text could ask, and that it answers",
    "keywords": "what somebody types into a search box who looks for this text: two to six words, no sentence",
    "claim": "a claim in one sentence that somebody makes, and that this text supports or disproves",
    "how-to": 'what somebody wants to get done, beginning with "how to", for which this text says what to do',
}
"""What a model is asked for, by kind."""

CHARACTERS = 2_000  # of a passage
EMPTY = 20
"""Answers without a query, one after the other, after which no more are paid for."""

_PROMPT = (
    "Text:\n{text}\n\nWrite {number} of these: {kind}. One a line, without numbers and without anything else. Do not "
    "repeat phrases of the text. Use the language of the text."
)
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_MARK = re.compile(
    r"^(?:[-*•]\s+|\(?\d{1,2}[.):]\s+|(?:question|keywords|claim|how-to|query)\s*\d*:\s*)+", re.IGNORECASE
)


@dataclass(frozen=True)
class Cost:
    """What is still to be asked of an endpoint; tokens are estimated, four bytes each."""

    texts: int = 0
    requests: int = 0
    kept: int = 0  # answers that are there already
    sent: int = 0  # tokens
    back: int = 0  # tokens
    price: tuple[float, float] | None = None  # of a million tokens sent, and of a million that come back

    def sentence(self, model: str, url: str) -> str:
        """Return it as a sentence."""
        kept = f" What it answered to {counted(self.kept, 'request')} is there already." if self.kept else ""
        if not self.requests:
            return f"Nothing has to be asked of {model}.{kept}"
        cost = " What that costs is not known: --price says it."
        if self.price is not None:
            cost = f" At {self.price[0]:g} and {self.price[1]:g} a million that is about {self.amount:.2f}."
        return (
            f"{model} at {url} is to be asked about {counted(self.texts, 'passage')}, in "
            f"{counted(self.requests, 'request')}: about {self.sent:,} tokens there and {self.back:,} back.{cost}{kept}"
        )

    @property
    def amount(self) -> float:
        """The price of all of it; 0 where none is given."""
        there, back = self.price or (0.0, 0.0)
        return (self.sent * there + self.back * back) / 1e6


@dataclass
class ChatGenerator:
    """A model behind ``url``, the address of the API (``http://localhost:11434/v1``) or of its chat completions."""

    url: str
    name: str  # of the model
    kinds: Sequence[Kind] = tuple(KINDS)
    key: str | None = None  # the name of the environment variable with the key
    price: tuple[float, float] | None = None  # of a million tokens sent, and of a million that come back
    extra: Mapping[str, Any] = field(default_factory=dict)  # further fields of a request; None takes one out
    parallel: int = 4  # requests at a time
    retries: int = 6
    timeout: float = 120.0
    wait: Callable[[float], None] = time.sleep  # between two attempts

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or "@" in self.url:
            raise StepwellError(
                "a chat endpoint begins with http:// or https:// and holds no password, and "
                f"{self.url.split('@')[-1]!r} is none: a key is read from the environment, by --generator-key NAME."
            )
        if unknown := set(self.kinds) - KINDS.keys():
            raise StepwellError(f"there are no queries of the kind {min(unknown)!r}: take some of {', '.join(KINDS)}.")
        if not self.kinds:
            raise StepwellError(f"no kind of queries is named: take some of {', '.join(KINDS)}.")
        path = "" if self.url.rstrip("/").endswith("/chat/completions") else "/chat/completions"
        self._endpoint = Endpoint(
            self.url.rstrip("/") + path,
            "the chat endpoint",
            no_key="leave --generator-key out",
            check="Check --generator, --generator-model and --generator-extra against the API's documentation. The "
            "answers that it gave before are kept.",
            kept="The answers that it gave before are kept: run the same command again when it is back.",
            key=self.key,
            retries=self.retries,
            timeout=self.timeout,
            wait=self.wait,
        )
        self._answers = Answers(cache() / "queries" / f"{self._hash(self._endpoint.url, self.name)}.jsonl")
        self._empty, self._last = 0, ""

    @staticmethod
    def _hash(*facts: Any) -> str:
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def plan(self, text: str, queries: int) -> list[tuple[Kind, int]]:
        """Return how many queries of which kinds a passage gets; the kinds take turns, beginning anywhere.

        >>> generator = ChatGenerator("http://localhost/v1", "m", ("question", "claim"))
        >>> sorted(generator.plan("a text", 4))
        [('claim', 2), ('question', 2)]
        """
        first = hash_text(f"kinds {text}")
        return list(Counter(self.kinds[(first + turn) % len(self.kinds)] for turn in range(queries)).items())

    def _body(self, text: str, kind: Kind, number: int, seed: int) -> dict[str, Any]:
        content = _PROMPT.format(text=text[:CHARACTERS], number=number, kind=KINDS[kind])
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0.7,
            "max_tokens": 100 + 50 * number,
            "seed": seed,
            **self.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def cost(self, texts: Iterable[str], queries: int, seed: int) -> Cost:
        """Return what asking about passages takes, beside the answers that are there."""
        self._answers.load()
        asked, seen, passages, counts = set[str](), set[str](), 0, Counter[str]()
        for text in texts:
            new = False
            for kind, number in self.plan(text, queries):
                body = self._body(text, kind, number, seed)
                key = self._hash(body)
                if key in self._answers.known:
                    seen.add(key)
                elif key not in asked:
                    asked.add(key)
                    new = True
                    counts += Counter(sent=len(body["messages"][0]["content"].encode()) // 4, back=20 * number)
            passages += new
        return Cost(passages, len(asked), len(seen), counts["sent"], counts["back"], self.price)

    def check_key(self) -> None:
        """Refuse to go on when the key is not set."""
        self._endpoint.check_key()

    def ask(self, texts: Sequence[str], queries: int, seed: int) -> list[list[tuple[str, str]]]:
        """Return the queries of each text, each with its kind: (kind, query)."""
        plans = [self.plan(text, queries) for text in texts]
        jobs = [(text, kind, number) for text, plan in zip(texts, plans, strict=True) for kind, number in plan]
        bodies = {self._hash(body): body for body in (self._body(*job, seed) for job in jobs)}  # the same one once
        with self._answers, ThreadPoolExecutor(self.parallel) as pool:
            try:
                list(pool.map(self._answer, bodies.items()))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [
            [
                (kind, query)
                for kind, number in plan
                for query in queries_of(self._answers.known[self._hash(self._body(text, kind, number, seed))])[:number]
            ]
            for text, plan in zip(texts, plans, strict=True)
        ]

    def _answer(self, request: tuple[str, dict[str, Any]]) -> None:
        """Ask, unless the answer is there, and keep the answer before anything else."""
        key, body = request
        if key in self._answers.known:
            return
        if self._empty >= EMPTY:
            raise StepwellError(
                f"the last {EMPTY} answers of {self.name} at {self.url} hold no query; the last one is "
                f"{self._last[:200]!r}. No more are asked for. A model that thinks before it answers needs more "
                "tokens: --generator-extra '{\"max_tokens\": 4000}'."
            )
        self._last = self._endpoint.post(body, _content)
        self._answers.add(key, self._last)
        self._empty = 0 if queries_of(self._last) else self._empty + 1


class Answers:
    """What was answered, by the hash of what was sent: a line each in a file, which one process writes at a time."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, dict[str, str]()
        self._read, self._lock, self._held = 0, Lock(), ExitStack()

    def load(self) -> bool:
        """Read what is new; return whether the last line was cut off."""
        if not self.path.is_file():
            return False
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return True
                self._read += len(line)
                with suppress(ValueError):  # cut off, and gone on behind it
                    key, content = json.loads(line)
                    self.known[key] = content
        return False

    def __enter__(self) -> None:
        self._held.enter_context(locked(self.path))
        if self.load():  # another process may have asked meanwhile, or was killed
            self._write(b"\n")

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def add(self, key: str, content: str) -> None:
        """Keep an answer, on the disk at once."""
        with self._lock:
            self._write(json.dumps([key, content]).encode() + b"\n")
            self.known[key] = content

    def _write(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _content(data: bytes) -> str:
    """Return what a model says in a chat completion; ValueError where there is none."""
    try:
        content = json.loads(data)["choices"][0]["message"].get("content")
        if not isinstance(content, str | None):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        said = " ".join(data.decode("utf-8", "replace").split())  # cut when the key is out of it
        raise ValueError(f"an answer that is no chat completion, {said!r}") from None
    return content or ""  # a refusal to answer is an answer, and was paid for


def queries_of(content: str) -> list[str]:
    r"""Return the queries in what a model says: its lines, without marks, quotes, headings and what it thought.

    >>> queries_of('<think>hm</think>Here they are:\n1. "Who keeps it dry?"\n- how to keep it dry')
    ['Who keeps it dry?', 'how to keep it dry']
    """
    lines = (_MARK.sub("", " ".join(line.split())).strip("\"'“”*` ") for line in _THOUGHT.sub("", content).splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.endswith(":")))
