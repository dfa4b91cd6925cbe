"""A client of a server in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

import recbole_ra
from recbole_ra.inference.journal import Journal
from recbole_ra.serving.app import Options, build_app
from recbole_ra.serving.desk import Desk


class Client:
    """Asks an application in this process; every request is one event loop's work."""

    def __init__(self, folder: Path, options: Options) -> None:
        recommender = recbole_ra.load(folder)
        assert recommender.folder is not None
        self.journal = Journal(recommender.folder)
        self.recommender = recommender
        self.gate: Any = build_app(Desk(recommender, self.journal), options)
        self.runner = asyncio.Runner()
        self.lifespan = self.gate.app.router.lifespan_context(self.gate.app)
        self.runner.run(self.lifespan.__aenter__())

    def close(self) -> None:
        self.runner.run(self.lifespan.__aexit__(None, None, None))
        self.runner.close()

    def all(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Send requests at once."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.gate)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await asyncio.gather(*(client.request(m, p, **given) for m, p, given in requests))

        return self.runner.run(send())

    def post(self, path: str, **body: Any) -> Any:
        (answer,) = self.all(("POST", path, {"json": body}))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, status: int, method: str, path: str, **given: Any) -> str:
        (answer,) = self.all((method, path, given))
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        problem = answer.json()
        assert set(problem) == {"title", "status", "detail"}
        assert (answer.status_code, problem["status"]) == (status, status), answer.text
        assert "\n" not in problem["detail"]
        assert "Traceback" not in problem["detail"]
        return str(problem["detail"])
