"""Every setting of admission and dispatch changes something that can be seen: one test for each."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Reply, Running, ask, chat, connect, gateway, request_bytes, run, until
from streams import CONTENT_TYPES
from tidegate.dispatch.breaker import Breaker, BreakerState
from tidegate.dispatch.settings import BreakerSettings
from tidegate.testing.upstream import HEAD, LAST, Peer, chunk, scripted_upstream
from tidegate.verdict import COMPLETED, UPSTREAM_FAILED
