"""kvasir serve and chat without --model: the small model in models/ answers, sensibly."""

import os
import shutil
import subprocess
import sys

from server import KVASIR, Server, check, skip

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tasks"))
import bank  # noqa: E402

MODEL = os.path.join(HERE, "..", "..", "models", "kvasir-demo.gguf")

if not os.path.exists(MODEL) or not os.path.exists(KVASIR):
    skip("needs models/kvasir-demo.gguf")

beside = os.path.join(os.path.dirname(os.path.realpath(KVASIR)), "..", "models", "kvasir-demo.gguf")
default = [] if os.path.exists(beside) else ["--model", MODEL]

talk = subprocess.run([KVASIR, "chat", *default, "--sampling", "temperature=0"],
                      input="Hello\nWhat is the capital of Italy?\n/new\nHello\n", capture_output=True, text=True,
                      timeout=120, check=False)
print(talk.stdout + talk.stderr)
check(talk.returncode == 0, "kvasir chat ends in order")
said = talk.stdout.splitlines()
check(len(said) == 3 and "Rome" in said[1], "kvasir chat answers each line")
check(said[0] == said[2] and said[0].startswith("Hello"), "a new conversation starts as the first did")

server = Server([KVASIR, "serve", *default])
status, reply = server.post("/v1/chat/completions", {
    "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32, "temperature": 0})
check(status == 200 and reply["choices"][0]["message"]["content"] == said[0], "serve answers as chat does")
check(server.wait_log(r"or: python3 -c \"from openai"), "an SDK line to paste")
if shutil.which("node") and os.path.isdir(os.path.join(HERE, "node_modules", "openai")):
    done = subprocess.run(["node", os.path.join(HERE, "test_default_model.mjs"), f"http://127.0.0.1:{server.port}"],
                          capture_output=True, text=True, timeout=120, check=False)
    print(done.stdout + done.stderr)
    check(done.returncode == 0, "the openai package")
else:
    print("no node: the openai package was not tried")
check(server.stop() == 0, "it ends in order")

# It finds values by their keys, whatever holds its KV.
for kv_type in ("f32", "bf16", "int8"):
    server = Server([KVASIR, "serve", *default, "--kv-type", kv_type])
    client = bank.Client(f"http://127.0.0.1:{server.port}")
    rows = [("key-value retrieval", 256, bank.key_value(client, 20, 256))]
    right = [row[2] for row in bank.run(client, rows)][0]
    print(f"KV as {kv_type}: {right} of 20 values found")
    check(right >= 16, f"values are found with KV as {kv_type}")
    check(server.stop() == 0, "it ends in order")
