"""The HTTP application: routes, and nothing that could be elsewhere."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Any, get_type_hints

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from prometheus_client import generate_latest
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import Route

from stepwell.server.batching import BusyError, GoneError
from stepwell.server.engine import Engine
from stepwell.server.guard import Guard
from stepwell.server.limits import Limits
from stepwell.server.matching import Spans, matcher
from stepwell.server.metrics import Metrics
from stepwell.server.schema import EmbedAnswer, EmbedRequest, Offer, Problem, SearchAnswer, SearchRequest
from stepwell.server.systems import Systems
from stepwell.systems.searcher import Hit

Answer = Callable[[Request, Exception], Awaitable[Response]]

USUAL = 10  # passages a query where none are asked for

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "No JSON.",
        401: "No token, or a wrong one.",
        408: "The body came too slowly.",
        413: "The body is too long.",
        422: "A value is missing, wrong, or beyond a limit.",
        503: "Too many queries wait: try again after Retry-After seconds.",
    }.items()
}


def make_app(systems: Systems, limits: Limits | None = None, token: str | None = None) -> Guard:
    """Return the ASGI application; without a ``token`` that clients must show it answers to loopback names alone."""
    limits, metrics = limits or Limits(), Metrics()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine = app.state.engine = Engine(systems, limits, metrics.batch)
        metrics.queue.set_function(lambda: len(engine.quick) + len(engine.slow))  # whenever they are read
        async with engine.quick, engine.slow:
            yield

    app = FastAPI(
        title="stepwell",
        version=version("stepwell"),
        description=f"Search in {systems.collection.name}.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.systems, app.state.limits, app.state.metrics = systems, limits, metrics
    post = partial(app.router.add_api_route, methods=["POST"], responses=REFUSALS, route_class_override=Direct)
    post("/search", search, response_model=SearchAnswer)
    post("/embed", embed, response_model=EmbedAnswer)
    app.get("/systems", response_model=Offer)(offer)
    app.get("/healthz")(healthz)
    app.get("/metrics", response_class=Response)(read_metrics)
    for path, (name, kind) in PAGE.items():
        page = Response((files("stepwell.server") / "page" / name).read_bytes(), media_type=kind)
        app.routes.append(Route(path, page, methods=["GET"]))
    for error, answer in ERRORS.items():
        app.exception_handler(error)(answer)
    return Guard(app, limits, token, metrics.answered)


class Direct(APIRoute):
    """A route that parses and checks the body in one step of pydantic's: half of what FastAPI adds to a request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request, of a function of a model and a request."""
        model: type[BaseModel] = get_type_hints(self.endpoint)["asked"]

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise HTTPException(422, "Content-Type: application/json is wanted.")
            try:
                asked = model.model_validate_json(request.scope["body"])
            except ValidationError as error:
                raise RequestValidationError(error.errors(include_url=False)) from None
            answer: Response = await self.endpoint(asked, request)
            return answer

        return handle


async def search(asked: SearchRequest, request: Request) -> Response:
    """Search: for each query the best passages, best first, with the places of its words in them."""
    began, state = time.perf_counter(), request.app.state
    queries = _several(asked.query, "queries", state.limits)
    if asked.system not in state.systems.by_name:
        raise HTTPException(422, f"system: there is none of this name; /systems lists {len(state.systems.by_name)}.")
    k = min(USUAL, state.limits.k) if asked.k is None else asked.k
    if k > state.limits.k:
        raise HTTPException(422, f"k: at most {state.limits.k:,}.")
    lists = await state.engine.search(asked.system, queries, k, request.is_disconnected)
    answers = []
    for query, hits in zip(queries, lists, strict=True):
        find = matcher(query)
        answers.append({"query": query, "passages": [_passage(hit, find, asked.characters) for hit in hits]})
    seconds = time.perf_counter() - began
    state.metrics.seconds.labels(asked.system).observe(seconds)
    return _json({"system": asked.system, "milliseconds": round(1000 * seconds, 2), "answers": answers})


async def embed(asked: EmbedRequest, request: Request) -> Response:
    """Embed texts with the student; normalised where its similarity is cosine."""
    state = request.app.state
    texts = _several(asked.text, "texts", state.limits)
    vectors = await state.engine.embed(texts, asked.side, request.is_disconnected)
    return _json({"dimension": len(vectors[0]), "vectors": vectors})


async def offer(request: Request) -> Response:
    """Say what is searched, by which systems, and within which limits."""
    systems, limits = request.app.state.systems, request.app.state.limits
    listed = [{"name": s.name, "label": s.label, "quality": s.quality} for s in systems.by_name.values()]
    return _json(
        {
            "collection": systems.collection.name,
            "passages": systems.collection.n_passages,
            "measure": systems.measure,
            "systems": listed,
            "examples": systems.examples(),
            "limits": {"text": limits.text, "batch": limits.batch, "k": limits.k},
        }
    )


async def healthz() -> dict[str, str]:
    """Say that the server lives and searches."""
    return {"status": "ok"}


async def read_metrics(request: Request) -> Response:
    """Give all counters as Prometheus reads them."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type="text/plain; version=0.0.4")


def _several(given: str | Sequence[str], what: str, limits: Limits) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    if not 1 <= len(texts) <= limits.batch:
        raise HTTPException(422, f"{what}: 1 to {limits.batch:,} in a request, not {len(texts):,}.")
    if (longest := max(map(len, texts))) > limits.text:
        raise HTTPException(422, f"{what}: at most {limits.text:,} characters each, not {longest:,}.")
    return texts


def _passage(hit: Hit, find: Callable[[str], Spans], characters: int) -> dict[str, Any]:
    body = hit.text[len(hit.title) :].lstrip()
    text = body[:characters]
    return {
        "rank": hit.rank,
        "id": hit.passage_id,
        "title": hit.title,
        "text": text,
        "cut": len(body) > characters,
        "score": hit.score,
        "title_matches": find(hit.title),
        "text_matches": find(text),
    }


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, media_type="application/json")


async def _invalid(request: Request, error: Exception) -> Response:
    """Name what is wrong without repeating what was sent."""
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return _json({"error": f"the body is no JSON: {problems[0]['ctx']['error']}."}, 400)
    wrong = (f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in problems[:5])
    return _json({"error": "; ".join(dict.fromkeys(wrong))[:500]}, 422)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))


def _fixed(status: int, text: str, headers: dict[str, str] | None = None) -> Answer:
    """Return what always gives one answer, without the traceback, which uvicorn logs."""

    async def answer(request: Request, error: Exception) -> Response:
        return _json({"error": text}, status, headers)

    return answer


ERRORS: dict[Any, Answer] = {
    RequestValidationError: _invalid,
    HTTPException: _refused,
    BusyError: _fixed(503, "too many queries wait; try again in a second.", {"Retry-After": "1"}),
    GoneError: _fixed(499, "the client is gone."),  # nobody reads it
    500: _fixed(500, "something went wrong here; the server's own output says what."),
}
