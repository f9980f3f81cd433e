"""Why a model cannot be loaded, in one line, whatever transformers and the hub raise."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import TracerError


class ModelError(TracerError):
    """A model that cannot be loaded."""


def hub_answers() -> bool:
    """Whether the hub's name resolves, asked first because a refused connection is retried for half a
    minute."""
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


@contextmanager
def in_one_line(name: str) -> Iterator[None]:
    """Turns what transformers and the hub raise into one line; keeps their retries, and their progress bars where
    nobody watches, off the screen."""
    from transformers.utils import logging as bars

    loggers = [logging.getLogger(package) for package in ("huggingface_hub", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    quiet = bars.is_progress_bar_enabled() and not sys.stderr.isatty()
    if quiet:
        bars.disable_progress_bar()
    try:
        yield
    except ModelError:
        raise
    except MemoryError:
        raise ModelError(f"{name}: does not fit into memory") from None
    except Exception as error:
        raise ModelError(_reason(name, error)) from error
    finally:
        if quiet:
            bars.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(name: str, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return f"{name}: comes with its own Python code; it runs only with --trust-remote-code"
    if "GatedRepo" in type(error).__name__ or "gated repo" in text:
        return f"{name}: is gated; ask for access on the hub and log in with `hf auth login`"
    if "is not a local folder and is not a valid model identifier" in text or "RepositoryNotFound" in text:
        return f"{name}: neither a folder nor a model on the hub"
    if (
        "couldn't connect" in text
        or "offline" in text.lower()
        or "LocalEntryNotFound" in type(error).__name__
    ):
        return f"{name}: is not a folder, and the hub cannot be reached to look for it there"
    if "safetensors" in text and "does not appear to have a file" in text:
        return f"{name}: has no safetensors weights; other formats are pickles, which could run code"
    if "FlashAttention" in text or "attn_implementation" in text:
        return f"{name}: {first_line(error)} --attn-implementation sdpa (or eager) loads it with another"
    if "model type" in text and "does not recognize" in text:
        return f"{name}: this transformers does not know its model type; a newer one may"
    return f"{name}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
