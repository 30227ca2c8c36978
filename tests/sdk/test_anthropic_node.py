"""Anthropic's official package for Node, where `make servers` could install it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from messaging import PROMPT, TOOLS, called, chat_tools, directly
from upstreams import upstreams

SDK = "@anthropic-ai/sdk"
ENVIRON = {**os.environ, "NODE_PATH": str(Path(sys.prefix) / "node" / "node_modules")}
ASKS = """
const {default: Anthropic} = require('@anthropic-ai/sdk');
const [url, kind, messages, tools] = process.argv.slice(1);
const client = new Anthropic({baseURL: url, apiKey: 'tg-a-key-of-the-sdk', maxRetries: 0});
const asked = (script) => ({model: `${kind}/${script}`, max_tokens: 1000, messages: JSON.parse(messages), tools: JSON.parse(tools)});
const raised = (promise) => promise.then(() => '', (error) => error.constructor.name);
(async () => {
  const streamed = await client.messages.stream(asked('text')).finalMessage();
  const whole = await client.messages.create(asked('text'));
  const calls = await client.messages.stream(asked('calls_many')).finalMessage();
  const broken = await raised(client.messages.stream(asked('breaks')).finalMessage());
  const cut = await raised(client.messages.stream(asked('cut')).finalMessage());
  const limited = await raised(client.messages.create(asked('limited')));
  console.log(JSON.stringify({streamed, whole, calls, broken, cut, limited}));
})();
"""


def installed() -> bool:
    """Whether Node finds the package."""
    node = shutil.which("node")
    if node is None:
        return False
    looking = [node, "-e", f"require.resolve('{SDK}')"]
    return subprocess.run(looking, capture_output=True, check=False, env=ENVIRON).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason=f"{SDK} is not installed: `make servers` does it")
@pytest.mark.parametrize("kind", ["openai", "bedrock"])
def test_the_package_for_node_gets_what_the_one_for_python_gets(kind: str) -> None:
    with upstreams() as served:
        command = ["node", "-e", ASKS, served.url, kind, json.dumps(PROMPT), json.dumps(TOOLS)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=30, env=ENVIRON)
        assert done.returncode == 0, done.stderr.decode()
        said = json.loads(done.stdout)
        text = directly(served, "text").choices[0].message.content
        calls = called(directly(served, "calls_many", tools=chat_tools()))
    assert said["streamed"]["content"] == [{"type": "text", "text": text}]
    assert said["whole"]["content"] == said["streamed"]["content"]
    assert said["streamed"]["usage"]["output_tokens"] == 12
    assert [(call["name"], call["input"]) for call in said["calls"]["content"]] == calls
    assert said["calls"]["stop_reason"] == "tool_use"
    assert (said["broken"], said["cut"], said["limited"]) == ("APIError", "APIError", "RateLimitError")
