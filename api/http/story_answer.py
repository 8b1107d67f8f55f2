"""The model of a job's story, for the description of the API.

Runs in: api.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from killable.api.http.schemas import State


class StoryParagraph(BaseModel):
    title: str
    text: str
    lines: list[str] = Field(description="Steps, a stack or output: not to be wrapped")


class StoryStep(BaseModel):
    ms: float | None = Field(description="Since the request to stop; null: it was expected, and did not happen")
    step: str


class StoryChange(BaseModel):
    setting: str | None = Field(description="The one setting to change; null: none would have helped")
    words: str


class ToldStory(BaseModel):
    """What `killable explain --json` prints."""

    job_id: str
    state: State
    headline: str
    paragraphs: list[StoryParagraph]
    steps: list[StoryStep]
    change: StoryChange
