"""kvasir serve and chat without --model: the small model in models/ answers, sensibly."""

import os
import shutil
import subprocess

from server import KVASIR, Server, check, skip

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "..", "..", "models", "kvasir-demo.gguf")

if not os.path.exists(MODEL) or not os.path.exists(KVASIR):
    skip("needs models/kvasir-demo.gguf")

if os.path.dirname(os.path.realpath(KVASIR)) == os.path.realpath(os.path.join(HERE, "..", "..", "build")):
    default = []  # the program finds it beside its build folder
else:
    default = ["--model", MODEL]

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
