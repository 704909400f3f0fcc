"""The same answer from every instruction set, and a machine whose kernel refuses AMX tiles."""

import os
import subprocess
import sys

from server import KVASIR, STORIES, Server, check, skip

WITHOUT_AMX = [sys.executable, os.path.join(os.path.dirname(__file__), "without_amx.py")]
ASK = {"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "logprobs": 1}
SERVE = [KVASIR, "serve", "--model", STORIES]

if not os.path.exists(STORIES) or not os.path.exists(KVASIR):
    skip("stories260K.gguf is not there")


def answer(server):
    status, reply = server.post("/v1/completions", ASK)
    check(status == 200, f"{status} {reply}")
    check(server.stop() == 0, "it ends in order")
    return reply["choices"][0]


def has(isa):
    done = subprocess.run([KVASIR, "eval", "--model", STORIES, "--isa", isa, "--tokens", "1"],
                          capture_output=True, text=True, timeout=60, check=False)
    check(done.returncode == 0 or "this machine has no" in done.stderr, done.stderr)
    return done.returncode == 0


def refuses_amx(server):
    return [line for line in server.log if "refuses AMX tiles" in line]


here = [isa for isa in ("scalar", "avx2", "avx512", "amx", "neon") if has(isa)]
check("scalar" in here, f"scalar is everywhere: {here}")
answers = {isa: answer(Server([*SERVE, "--isa", isa])) for isa in here}
for isa, got in answers.items():
    check(got["text"] == answers["scalar"]["text"], f"{isa} says {got['text']!r}")
print("same text from " + ", ".join(here))

if "amx" in here:
    refused = Server([*WITHOUT_AMX, *SERVE])
    check(len(refuses_amx(refused)) == 1, f"one line tells of the refusal: {refused.log}")
    check(answer(refused) == answers["avx512"], "and AVX-512's bits answer")
    asked = subprocess.run([*WITHOUT_AMX, *SERVE, "--isa", "amx", "--port", "0"],
                           capture_output=True, text=True, timeout=60, check=False)
    check(asked.returncode == 1 and "this machine has no amx; the best it has is avx512"
          in asked.stderr, f"AMX asked for by name is an error: {asked.stderr}")
    print("AMX refused: one line, then AVX-512")
