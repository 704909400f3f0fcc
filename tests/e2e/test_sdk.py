"""Runs test_sdk.mjs, the official openai package, against the fake engine and stories260K."""

import os
import shutil
import subprocess
import tempfile

from server import Server, check, skip

HERE = os.path.dirname(os.path.abspath(__file__))
KEY = "sk-e2e"

if not shutil.which("node") or not os.path.isdir(os.path.join(HERE, "node_modules", "openai")):
    skip("needs node and `npm ci` in tests/e2e")
version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
if int(version[1:].split(".")[0]) < 18:
    skip(f"the openai package needs node 18 or later, this is {version.strip()}")

CALLS = ('Let me see.\n<tool_call>\n{"name": "f", "arguments": {"city": "Zürich"}}\n</tool_call>\n'
         '<tool_call>{"name": "f", "arguments": {}}</tool_call>')

with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
    keys.write(f"e2e:{KEY}\n")
    keys.flush()
    option = ("--api-key-file", keys.name)
    for name, what, server in (
            ("fake", "all", Server.fake(*option, ("--fake-embd", 32))),
            ("stories260K", "all", Server.stories("--alias", "stories260K", *option)),
            ("fake", "tools", Server.fake(*option, ("--fake-say", CALLS)))):
        if not server:
            print(f"{name}: not there, not tried")
            continue
        done = subprocess.run(["node", os.path.join(HERE, "test_sdk.mjs"),
                               f"http://127.0.0.1:{server.port}", name, KEY, what],
                              capture_output=True, text=True, timeout=120, check=False)
        print(f"{name}:\n{done.stdout}{done.stderr}")
        check(done.returncode == 0, f"the SDK on {name}")
        check(server.stop() == 0, f"{name}: it ends in order")
