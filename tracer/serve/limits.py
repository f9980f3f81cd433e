"""The named limits of a served model; each is answered with the status in brackets, or [-] with less."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much one request, and all of them together, may ask for."""

    body_bytes: int = 4_000_000
    """Longest request body. [413]"""
    prompt_tokens: int = 4096
    """Longest prompt, also bounded by the model's own positions. [413]"""
    prompt_positions: int = 512
    """Most tokens of a prompt that a comparison tells of, the last ones; fewer under a large vocabulary. [-]"""
    new_tokens: int = 2048
    """Most tokens that one request may generate. [400]"""
    score_prompts: int = 512
    """Most prompts in one scoring request. [400]"""
    job_prompts: int = 20_000
    """Most prompts in one trace or evaluation. [400]"""
    active: int = 16
    """Requests that take turns at the model; each holds its own key-value cache."""
    queued: int = 48
    """Requests that wait for such a turn. [429]"""
    rules: int = 2000
    """Most rules of a profile; a rule with experts by layer counts once a layer. [422]"""
    jobs: int = 4
    """Traces and evaluations that run or wait. [429]"""
    connections: int = 256
    """Open connections. [503]"""
    waiting: int = 48
    """Connections of one peer on which no request is under way; all peers together have twice as many. One more closes
    the oldest. [-]"""
    header_s: float = 10.0
    """Longest time for a client to send the header of a request; then it is cut off. [-]"""
    request_s: float = 600.0
    """Longest time from a request's arrival to its last token. [504]"""
    body_s: float = 30.0
    """Longest time for a client to send its body. [408]"""
