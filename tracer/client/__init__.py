"""Talks to `moescope serve`: the same calls for the app, for notebooks, and for a server elsewhere.

client = connect(url, token)
for event in client.generate("The capital of", steering=profile, compare=True):
    print(event["side"], event["text"])
"""

from ..serve.process import ServerCrashed, ServerProcess
from .client import Client, connect, start_server
from .connection import ServerError
from .generation import Generation
from .job import RemoteJob
from .rows import as_profile, rows_of

__all__ = [
    "Client",
    "Generation",
    "RemoteJob",
    "ServerCrashed",
    "ServerError",
    "ServerProcess",
    "as_profile",
    "connect",
    "rows_of",
    "start_server",
]
