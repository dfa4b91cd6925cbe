"""What requests and answers look like; OpenAPI follows from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recbole_ra.serving.problems import MEDIA_TYPE

MAX_K = 1000
MAX_ROWS = 20_000
"""Items in one answer: users or histories, times ``k``."""

Token = Annotated[str, Field(min_length=1, max_length=256)]
Time = Annotated[float, Field(allow_inf_nan=False, description="in the unit of the data, mostly seconds")]
K = Annotated[int, Field(ge=1, le=MAX_K, description="items for each")]
# Of a long list the first error is enough: one for each would cost more than the answer.
History = Annotated[
    list[Token],
    Field(min_length=1, max_length=2000, fail_fast=True, description="item tokens, oldest first"),
]
Unknown = Annotated[
    Literal["error", "skip"], Field(description="what becomes of items that the model does not know")
]


class Asked(BaseModel):
    """Base of requests: no other keys, and no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _of_unknown_keys_the_first_is_enough(cls, given: Any) -> Any:
        """Refuse it, as an error for each would cost more than the answer."""
        if isinstance(given, dict):
            for key in given:
                if key not in cls.model_fields:
                    raise ValueError(f"{key}: no such key; there are {', '.join(cls.model_fields)}")
        return given


class RecommendRequest(Asked):
    """Whom to recommend for, and what may be recommended; give users or histories."""

    users: list[Token] | None = Field(
        None, min_length=1, max_length=256, fail_fast=True, description="known users"
    )
    histories: list[History] | None = Field(None, min_length=1, max_length=256, fail_fast=True)
    k: K = 10
    filter_seen: bool = Field(True, description="leave out what is in the history")
    items: list[Token] | None = Field(
        None, min_length=1, max_length=10_000, fail_fast=True, description="recommend none but these"
    )
    exclude: list[Token] | None = Field(
        None, max_length=10_000, fail_fast=True, description="recommend none of these"
    )
    memories: bool = Field(True, description="false: the backbone alone, as if nothing were remembered")
    time: Time | None = Field(None, description="when it is asked; by default now")
    on_unknown_items: Unknown = "error"
    on_cold_users: Literal["popular", "error"] = Field(
        "popular", description="for users of whom nothing is known: popular items, without a score"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.users is None) == (self.histories is None):
            raise ValueError("give users or histories, one of the two")
        rows = len(self.users or self.histories or ())
        if rows * self.k > MAX_ROWS:
            raise ValueError(f"{rows} times k={self.k} are more than {MAX_ROWS} items; ask for fewer at once")
        return self


class Item(BaseModel):
    """An item."""

    item: str
    title: str | None = None


class Scored(Item):
    """A recommended item."""

    score: float | None = Field(description="null for popular items")
    rank: int


class Recommended(BaseModel):
    """What one user or history gets."""

    user: str | None = Field(description="as asked for; null for a history")
    items: list[Scored]


class Recommendations(BaseModel):
    """One entry for each user or history, in their order."""

    recommendations: list[Recommended]
    unknown_items: list[str] = Field(description="items that were skipped")


class SimilarRequest(Asked):
    """An item whose like is asked for."""

    item: Token
    k: K = 10


class Similar(BaseModel):
    """Items whose vectors have the largest cosine with its own."""

    item: str
    similar: list[Scored]


class ExplainRequest(Asked):
    """A recommendation to explain; give a history or a user."""

    history: History | None = None
    user: Token | None = None
    item: Token | None = Field(None, description="which recommendation; by default the first")
    filter_seen: bool = True
    time: Time | None = None
    on_unknown_items: Unknown = "error"

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.user is None) == (self.history is None):
            raise ValueError("give a history or a user, one of the two")
        return self


class Memory(Item):
    """A memory: a history like this one, and the item that followed it."""

    similarity: float
    attention: float | None
    effect: float = Field(description="what it adds to the score, measured by leaving it out")
    owner: str = Field(description="own, pattern, or a number for each other user")


class Vote(Item):
    """An item of the history, after which others chose what is recommended."""

    effect: float = Field(description="what its votes add to the score, measured by leaving them out")


class Explained(Item):
    """Where a recommendation comes from."""

    user: str | None
    score: float
    rank: int
    score_without: float | None = Field(description="without memories; at another scale")
    rank_without: int | None
    memories: list[Memory]
    n_owners: int
    votes: list[Vote]
    note: str


class NewEvent(Asked):
    """An interaction."""

    user: Token
    item: Token
    time: Time


class EventsRequest(Asked):
    """Interactions to remember."""

    events: list[NewEvent] = Field(min_length=1, max_length=1000, fail_fast=True)
    on_unknown_items: Unknown = "skip"


class Remembered(BaseModel):
    """What became of events; they are on the disk."""

    events: int = Field(description="new ones")
    known: int = Field(description="left out because they were there before")
    memories: int
    new_users: int
    unknown_items: list[str] = Field(description="their events were left out")


class ForgetRequest(Asked):
    """A user to erase."""

    user: Token


class Forgotten(BaseModel):
    """An erased user."""

    memories: int = Field(description="that were erased")


class Found(BaseModel):
    """Items that a search found."""

    items: list[Item]


class Health(BaseModel):
    """That it serves, and what."""

    status: Literal["ok"]
    model: str
    dataset: str
    items: int
    users: int
    memories: int | None = Field(description="null for a model that remembers nothing")
    titles: bool
    needs_key: bool


class Problem(BaseModel):
    """Every error (RFC 9457)."""

    title: str
    status: int
    detail: str = Field(description="what is wrong, and the remedy, in one line")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an endpoint for OpenAPI."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "an error", "content": content} for status in statuses}
