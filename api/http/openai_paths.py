"""The addresses at which OpenAI's clients call, and Anthropic's.

Runs in: api. Pure.
"""

from __future__ import annotations

ANTHROPICS = "/v1/messages"
RESPONSES = "/v1/responses"
SUBMISSIONS = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", RESPONSES),
        *("/tokenize", "/detokenize", ANTHROPICS),
    }
)
"""A POST there submits jobs."""
_ALL = (
    ANTHROPICS,
    "/v1/models",
    "/v1/chat/",
    "/v1/completions",
    "/v1/embeddings",
    RESPONSES,
    "/tokenize",
    "/detokenize",
)


def is_openais(path: str) -> bool:
    """Return whether the errors of an address are OpenAI's, or Anthropic's."""
    return path.startswith(_ALL)


def is_anthropics(path: str) -> bool:
    """Return whether the errors of an address are Anthropic's."""
    return path.startswith(ANTHROPICS)
