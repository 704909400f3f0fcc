#!/usr/bin/env python3
"""What a model can do, as a table: measure.py (--url URL | --model FILE) [--n N] [--lengths 1024,4000] [--quant TYPES] [-- SERVE OPTIONS]

With --model it starts build/kvasir (or $KVASIR_BUILD/kvasir) itself; with --quant Q4_0,Q8_0 also once per type, quantised from FILE.
Options after -- go to `kvasir serve`, as --kv-type int8.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

import bank

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
KVASIR = os.path.join(os.environ.get("KVASIR_BUILD", os.path.join(ROOT, "build")), "kvasir")


class Server:
    """kvasir serve on a free port, until the with-block ends."""

    def __init__(self, options):
        self.command = [KVASIR, "serve", "--port", "0", *options]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        log = []
        for line in self.process.stderr:
            log.append(line)
            found = re.search(r"ready: (http\S+)", line)
            if found:
                # the log goes on: somebody must read it
                self.reader = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
                return found.group(1)
        sys.exit("measure: the server did not start:\n" + "".join(log[-5:]))

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.reader.wait()


def show(url, a, title):
    client = bank.Client(url, os.environ.get("KVASIR_API_KEY"))
    print(f"{title}\n\n| task | prompt tokens | right | of | % |\n|---|---|---|---|---|", flush=True)
    wrongs = []
    for name, _, right, asked, n_tok, wrong in bank.run(client, bank.table(client, a.n, a.lengths)):
        print(f"| {name} | {n_tok:.0f} | {right} | {asked} | {100 * right / asked:.1f} |", flush=True)
        if wrong:
            wrongs.append(f"{name}: …{wrong[0]!r} -> {wrong[1][:100]!r}")
    if a.wrong:
        print("\n" + "\n".join(wrongs))
    story = client.ask(bank.user("Tell me a story."), 300, 0.7)[0]
    print(f"\nA story at temperature 0.7, seed 1: {story}\n", flush=True)


def main():
    own, serve = (sys.argv[1:], []) if "--" not in sys.argv else (sys.argv[1:sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1:])
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--url")
    p.add_argument("--model")
    p.add_argument("--n", type=int, default=100, help="tasks per row")
    p.add_argument("--lengths", type=lambda s: [int(x) for x in s.split(",") if x], default=[1024, 4000])
    p.add_argument("--quant", type=lambda s: s.split(","), default=[])
    p.add_argument("--wrong", action="store_true", help="show one wrong answer per row")
    a = p.parse_args(own)
    if a.url:
        show(a.url, a, a.url)
        return
    if not a.model:
        p.error("give --url or --model")
    name = os.path.basename(a.model)
    with Server(["--model", a.model, *serve]) as url:
        show(url, a, " ".join([name, *serve]))
    for kind in a.quant:
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "model.gguf")
            subprocess.run([KVASIR, "quantize", a.model, path, kind], check=True, stdout=subprocess.DEVNULL)
            with Server(["--model", path, *serve]) as url:
                show(url, a, " ".join([name, "as", kind, *serve]))


if __name__ == "__main__":
    main()
