"""`tidegate demo`: what `make run` calls. One real completion over real HTTP, then a gateway to play with."""

import asyncio
import http.client
import json
import sys
from collections.abc import Iterator, Mapping

import typer
import uvloop

from tidegate.assemble import Tidegate
from tidegate.cli.serving import Stop, load_for_demo, mocks, proxies, refuses_open, settle
from tidegate.config import Config, Loaded
from tidegate.edge.listener import PortBusyError, raise_nofile_limit
from tidegate.observe import log

PROMPT = "Tell me about the tide."
MODEL = "demo"
READY_S = 30.0
TIMEOUT_S = 30.0


def run(environ: Mapping[str, str], overrides: Mapping[str, str], *, allow_open: bool) -> int:
    """Run the demo until Ctrl-C; gives the exit code."""
    loaded = load_for_demo(environ, overrides)
    if refuses_open(loaded.config, allow_open=allow_open):
        return 2
    writer = log.configure("text" if sys.stderr.isatty() else "json", level="warning")
    try:
        return uvloop.run(_run(loaded, environ))
    except PortBusyError as error:
        typer.echo(f"error: {error}; choose another: make run ARGS='--port 9000 --ops-listen 127.0.0.1:9465'", err=True)
        return 1
    finally:
        writer.close()


async def _run(loaded: Loaded, environ: Mapping[str, str]) -> int:
    raise_nofile_limit()
    async with mocks(loaded.config) as config:
        tidegate = Tidegate(config, proxies(config, environ), withheld=loaded.secrets)
        port, ops_port = await tidegate.start()
        settle()
        stop = Stop(lambda: None)
        for local in tidegate.wiring.locals.values():
            await local.wait_ready(READY_S)
        host = config.server.host
        typer.echo(
            f"tidegate listens on http://{host}:{port}; behind it: {', '.join(provider.name for provider in config.providers)}\n"
        )
        try:
            await asyncio.to_thread(_stream, host, port)
        except (OSError, http.client.HTTPException, ValueError) as error:
            typer.echo(f"\nerror: the completion failed: {error}", err=True)
            await tidegate.stop(delay_s=0.0)
            return 1
        _explain(config, host, port, ops_port)
        await stop.event.wait()
        typer.echo("\nstopping")
        await tidegate.stop(delay_s=0.0)
    return 0


def _stream(host: str, port: int) -> None:
    """Print a completion as it comes. Errors: OSError, HTTPException, ValueError."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {response.read(500).decode(errors='replace')}")
        typer.echo(f"> {PROMPT}")
        for piece in _pieces(response):
            sys.stdout.write(piece)
            sys.stdout.flush()
        typer.echo("\n")
    finally:
        connection.close()


def _pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            event = json.loads(data)
            if "error" in event:
                raise ValueError(event["error"]["message"])
            for choice in event.get("choices", ()):
                yield choice["delta"].get("content") or ""


def _explain(config: Config, host: str, port: int, ops_port: int) -> None:
    base = f"http://{host}:{port}/v1"
    names = ", ".join(model.name for model in config.models)
    request = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Hello"}]})
    typer.echo(f"base URL  {base}\nmodels    {names}\n")
    typer.echo(f"curl -N {base}/chat/completions -H 'content-type: application/json' -d '{request}'\n")
    typer.echo(
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{base}", api_key="unused")\n'
        'stream = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "Hello"}], stream=True)\n'
        'for chunk in stream: print(chunk.choices[0].delta.content or "", end="", flush=True)\n'
    )
    if ops_port:
        typer.echo(f"metrics   http://127.0.0.1:{ops_port}/metrics")
    typer.echo("Ctrl-C stops it.")
