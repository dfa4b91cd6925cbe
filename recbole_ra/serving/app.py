"""The endpoints."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from recbole_ra import __version__
from recbole_ra.serving.desk import Desk
from recbole_ra.serving.engine import Engine
from recbole_ra.serving.gate import LOCAL, PAGE, Gate, Limits
from recbole_ra.serving.metrics import CONTENT_TYPE, Metrics
from recbole_ra.serving.problems import Refusal, of_validation
from recbole_ra.serving.schema import (
    EventsRequest,
    Explained,
    ExplainRequest,
    ForgetRequest,
    Forgotten,
    Found,
    Health,
    Problem,
    Recommendations,
    RecommendRequest,
    Remembered,
    Similar,
    SimilarRequest,
    problems,
)
from recbole_ra.serving.search import Search

_MEDIA = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_ASKED = problems(400, 401, 404, 408, 413, 415, 421, 422, 503)
_READ = problems(401, 421, 422)


@dataclass(frozen=True)
class Options:
    """How a server behaves.

    Attributes
    ----------
    key : str or None
        API key; None asks for none.
    hosts : tuple of str or None
        Names that it may be called by; None is any.
    batch, window
        See :class:`Engine`.
    limits : Limits
    """

    key: str | None = None
    hosts: tuple[str, ...] | None = LOCAL
    batch: int = 64
    window: float = 0.002
    limits: Limits = field(default_factory=Limits)


class ItemsQuery(BaseModel):
    """What is searched for."""

    model_config = ConfigDict(extra="forbid")
    search: Annotated[str, Field(min_length=1, max_length=100, description="part of a title, or a token")]
    k: Annotated[int, Field(ge=1, le=50)] = 10


def build_app(desk: Desk, options: Options) -> ASGIApp:
    """Make the application of a recommender.

    Parameters
    ----------
    desk : Desk
        Used by the application alone from now on, and closed when it ends.
    options : Options
    """
    metrics = Metrics()
    engine = Engine(desk, metrics, batch=options.batch, window=options.window)
    about, items = desk.recommender.about, desk.recommender.items
    search = Search(items)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.running():
            yield

    app = FastAPI(
        title="recbole-ra",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=_HANDLERS,
    )

    async def answered(kind: str, asked: Any) -> Response:
        return Response(await engine.ask(kind, asked), media_type="application/json")

    @app.post("/recommend", response_model=Recommendations, responses=_ASKED)
    async def recommend(asked: RecommendRequest) -> Response:
        """Recommend items for known users or for histories."""
        return await answered("recommend", asked)

    @app.post("/similar", response_model=Similar, responses=_ASKED)
    async def similar(asked: SimilarRequest) -> Response:
        """Find similar items."""
        return await answered("similar", asked)

    @app.post("/explain", response_model=Explained, responses=_ASKED)
    async def explain(asked: ExplainRequest) -> Response:
        """Show the memories that a recommendation comes from; other users are numbers."""
        return await answered("explain", asked)

    @app.post("/events", response_model=Remembered, responses=_ASKED)
    async def events(asked: EventsRequest) -> Response:
        """Remember interactions, without training; the same event again changes nothing."""
        return await answered("remember", asked)

    @app.post("/forget", response_model=Forgotten, responses=_ASKED)
    async def forget(asked: ForgetRequest) -> Response:
        """Erase a user: history, memories and name."""
        return await answered("forget", asked)

    @app.get("/items", response_model=Found, responses=_READ)
    def find_items(query: Annotated[ItemsQuery, Query()]) -> dict[str, Any]:
        """Find items by title or token."""
        return {"items": search.find(query.search, query.k)}

    @app.get("/health", responses=problems(421))
    async def health() -> Health:
        """Tell that it serves, and what."""
        return Health(
            status="ok",
            model=about.model,
            dataset=about.dataset,
            items=len(items) - 1,
            users=engine.counts.users,
            memories=engine.counts.memories,
            titles=items.titles is not None,
            needs_key=options.key is not None,
        )

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **_READ})
    async def figures() -> Response:
        """Tell what was counted, for Prometheus."""
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    for path, name in PAGE.items():
        content = (resources.files("recbole_ra.serving") / "page" / name).read_bytes()
        media = _MEDIA[name.rpartition(".")[2]]
        app.add_api_route(
            path, partial(_file, content, media), methods=["GET", "HEAD"], include_in_schema=False
        )
    app.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)

    app.openapi = partial(_openapi, app, options)  # type: ignore[method-assign]
    paths = [getattr(route, "path", "") for route in app.routes]
    return Gate(app, metrics, paths, key=options.key, hosts=options.hosts, limits=options.limits)


async def _file(content: bytes, media: str) -> Response:
    return Response(content, media_type=media)


def _openapi(app: FastAPI, options: Options) -> dict[str, Any]:
    """Describe the endpoints, with their errors and the key."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    made = app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = made["components"]
    components["schemas"]["Problem"] = Problem.model_json_schema()
    if options.key is not None:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in made["paths"].items():
            if path != "/health":
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return made


async def _refused(_: Request, refusal: Any) -> Response:
    return refusal.response()


async def _invalid(_: Request, error: Any) -> Response:
    return of_validation(error.errors()).response()


async def _http(request: Request, error: Any) -> Response:
    """Answer what the framework refuses: unknown paths and methods, bodies that it cannot read."""
    what = {404: f"{request.url.path}: no such path", 405: f"{request.method} is not answered here"}
    detail = what.get(error.status_code, str(error.detail))
    return Refusal(error.status_code, detail, error.headers).response()


async def _fault(_: Request, __: Any) -> Response:
    return Refusal(500, "a fault of the server; its log says more").response()


_HANDLERS: dict[Any, Any] = {
    Refusal: _refused,
    RequestValidationError: _invalid,
    HTTPException: _http,
    Exception: _fault,
}
