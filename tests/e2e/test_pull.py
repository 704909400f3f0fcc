"""kvasir pull and kvasir models against a hub of our own: redirects to another host, ranges,
tokens, truncated and wrong bodies, hostile names."""

import hashlib
import http.server
import json
import os
import random
import subprocess
import tempfile
import threading

from server import KVASIR, check, skip

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RNG = random.Random(5)


def body(n):
    return RNG.randbytes(n)


class Repo:
    def __init__(self, files, **how):
        self.files = files
        self.how = how

    def listing(self):
        out = []
        for path, data in self.files.items():
            item = {"rfilename": path, "size": self.how.get("size", len(data))}
            if path.endswith((".json", ".jinja")):
                item["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            else:
                item["blobId"] = "0" * 40
                digest = hashlib.sha256(data).hexdigest()
                item["lfs"] = {"sha256": self.how.get("sha256", digest), "size": len(data)}
            out.append(item)
        return {"sha": COMMIT, "siblings": out}


BIG = body(3_000_000)
REPOS = {
    "org/one": Repo({"model-Q8_0.gguf": BIG, "README.md": b"x"}),
    "org/many": Repo({"m-Q4_K_M.gguf": body(1000), "m-Q8_0.gguf": body(2000),
                      "m-Q4_K.gguf": body(10), "mmproj-F16.gguf": body(20),
                      "sub/m-F16-00001-of-00002.gguf": body(300),
                      "sub/m-F16-00002-of-00002.gguf": body(400)}),
    "org/hole": Repo({"m-00001-of-00002.gguf": body(300)}),
    "org/gated": Repo({"m-Q8_0.gguf": body(500)}, token="secret"),
    "org/cut": Repo({"m-Q8_0.gguf": BIG}, cut=[1000, 900_000, 0]),
    "org/norange": Repo({"m-Q8_0.gguf": BIG}, cut=[700_000], norange=True),
    "org/wrong": Repo({"m-Q8_0.gguf": body(5000)}, sha256="ab" * 32),
    "org/long": Repo({"m-Q8_0.gguf": body(5000)}, size=4000),
    "org/short": Repo({"m-Q8_0.gguf": body(5000)}, size=6000),
    "org/nodigest": Repo({"m-Q8_0.gguf": body(50)}, sha256="zz"),
    "org/evil": Repo({"../../../evil-Q8_0.gguf": body(50), "/etc/evil-Q8_0.gguf": body(50),
                      "a/..\\evil-Q8_0.gguf": body(50), ".hidden.gguf": body(50),
                      "x\n-Q8_0.gguf": body(50), "q?a=1-Q8_0.gguf": body(9)}),
    "org/loop": Repo({"m-Q8_0.gguf": body(50)}, loop=True),
    "org/folder": Repo({"config.json": b"{}", "tokenizer.json": b"{\"a\":1}",
                        "model-00001-of-00002.safetensors": body(900),
                        "model-00002-of-00002.safetensors": body(800),
                        "model.safetensors.index.json": b"{}", "training.py": b"x"}),
    "org/badgit": Repo({"config.json": b"{}", "m.safetensors": body(9)}, badgit=True),
    "org/nothing": Repo({"a.bin": b"x"}),
    "org/junk": Repo({}, junk=b"[1, 2"),
    "org/file": Repo({"m-Q8_0.gguf": body(50)}, elsewhere="file:///etc/passwd"),
    "org/busy": Repo({"m-Q8_0.gguf": body(50)}, busy=[503, 429]),
}
SEEN = []  # (host role, path, Authorization, Range)


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # clients that were cut off


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, data=b"", **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def note(self, role):
        SEEN.append((role, self.path, self.headers.get("Authorization"),
                     self.headers.get("Range")))


class Hub(Handler):
    def do_GET(self):
        self.note("hub")
        parts = self.path.split("?")[0].split("/")
        name = "/".join(parts[3:5] if parts[1] == "api" else parts[1:3])
        repo = REPOS.get(name)
        if not repo:
            return self.reply(404)
        if repo.how.get("token") and self.headers.get("Authorization") != "Bearer secret":
            return self.reply(401)
        if parts[1] == "api":
            if repo.how.get("busy"):
                return self.reply(repo.how["busy"].pop())
            listing = repo.listing()
            if repo.how.get("badgit"):
                listing["siblings"][0]["blobId"] = "1" * 40
            return self.reply(200, repo.how.get("junk") or json.dumps(listing).encode())
        path = "/".join(parts[5:])
        if parts[3:5] != ["resolve", COMMIT] or path not in repo.files:
            return self.reply(404)
        if repo.how.get("loop"):
            return self.reply(302, Location=self.path)
        if path.endswith((".json", ".jinja")):
            return self.reply(200, repo.files[path])
        return self.reply(302, Location=repo.how.get("elsewhere") or
                          f"http://localhost:{cdn.server_port}/{name}/{path}")


class Cdn(Handler):
    def do_GET(self):
        self.note("cdn")
        parts = self.path.split("/")
        repo = REPOS["/".join(parts[1:3])]
        data = repo.files["/".join(parts[3:])]
        start, status = 0, 200
        asked = self.headers.get("Range")
        if asked and not repo.how.get("norange"):
            start, status = int(asked.split("=")[1].split("-")[0]), 206
            if start >= len(data):
                return self.reply(416)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        cuts = repo.how.get("cut")
        cut = cuts.pop(0) if cuts else len(data)
        self.wfile.write(data[start:start + cut])
        if cut < len(data) - start:
            self.close_connection = True
            self.connection.close()
        return None


def serve(handler):
    server = Quiet(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


hub, cdn = serve(Hub), serve(Cdn)
URL = f"http://127.0.0.1:{hub.server_port}"


def run(cache, *words, env=None, command="pull"):
    environ = {"HOME": cache, "PATH": os.environ["PATH"], **(env or {})}
    for key in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
        if key in os.environ:
            environ[key] = os.environ[key]
    more = ["--hub-url", URL] if command == "pull" else []
    done = subprocess.run([KVASIR, command, "--cache", cache, *more, *words],
                          capture_output=True, text=True, env=environ, timeout=120, check=False)
    if "this build has no libcurl" in done.stderr:
        skip("a build without libcurl")
    check("Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr)
    return done


def gets(cache, name, path, data, **more):
    done = run(cache, name, **more)
    check(done.returncode == 0, f"{name}: {done.stderr}")
    check(done.stdout.strip() == os.path.join(cache, path), f"{name}: printed {done.stdout}")
    with open(done.stdout.strip(), "rb") as f:
        check(f.read() == data, f"{name}: other bytes")
    return done


def refuses(cache, name, *words, status=1, **more):
    done = run(cache, name, **more)
    check(done.returncode == status, f"{name}: exit {done.returncode}, {done.stderr}")
    lines = done.stderr.strip().splitlines()
    check(len(lines) == 1, f"{name}: {done.stderr!r}")
    for word in words:
        check(word in lines[0], f"{name}: {lines[0]!r} lacks {word!r}")
    check(done.stdout == "", f"{name}: printed {done.stdout}")


def files_under(folder):
    return sorted(os.path.relpath(os.path.join(at, f), folder)
                  for at, _, names in os.walk(folder) for f in names)


def test_fetching(cache):
    gets(cache, "hf.co/org/one", "org/one/model-Q8_0.gguf", BIG)
    SEEN.clear()
    gets(cache, "https://huggingface.co/org/one:q8_0", "org/one/model-Q8_0.gguf", BIG)
    check([s[0] for s in SEEN] == ["hub"], f"a complete file was fetched again: {SEEN}")
    many = REPOS["org/many"].files
    gets(cache, "org/many", "org/many/m-Q4_K_M.gguf", many["m-Q4_K_M.gguf"])
    gets(cache, "org/many:q4_k", "org/many/m-Q4_K.gguf", many["m-Q4_K.gguf"])
    first = "m-F16-00001-of-00002.gguf"
    gets(cache, "org/many:F16", f"org/many/{first}", many[f"sub/{first}"])
    check(os.path.exists(f"{cache}/org/many/m-F16-00002-of-00002.gguf"), "the second part")
    done = run(cache, "org/folder")
    check(done.stdout.strip() == f"{cache}/org/folder" and done.returncode == 0, done.stderr)
    check(len(files_under(f"{cache}/org/folder")) == 5, files_under(cache))
    gets(cache, "org/busy", "org/busy/m-Q8_0.gguf", REPOS["org/busy"].files["m-Q8_0.gguf"])
    # What changed on the hub is fetched again, also at the same length.
    path = f"{cache}/org/one/model-Q8_0.gguf"
    with open(path, "r+b") as f:
        f.write(b"damage")
    gets(cache, "org/one", "org/one/model-Q8_0.gguf", BIG)


def test_resuming(cache):
    SEEN.clear()
    data = REPOS["org/cut"].files["m-Q8_0.gguf"]
    gets(cache, "org/cut", "org/cut/m-Q8_0.gguf", data)
    ranges = [s[3] for s in SEEN if s[0] == "cdn"]
    check(ranges[0] is None and ranges[1] == "bytes=1000-" and ranges[2] == "bytes=901000-",
          f"ranges {ranges}")
    gets(cache, "org/norange", "org/norange/m-Q8_0.gguf", BIG)
    # Another process left a part, and one that is longer than the file.
    for left in (BIG[:1_234_567], BIG + b"more", b""):
        os.remove(f"{cache}/org/one/model-Q8_0.gguf")
        with open(f"{cache}/org/one/model-Q8_0.gguf.part", "wb") as f:
            f.write(left)
        gets(cache, "org/one", "org/one/model-Q8_0.gguf", BIG)
    # A part that is not the file's beginning is found out, thrown away, and fetched anew.
    os.remove(f"{cache}/org/one/model-Q8_0.gguf")
    with open(f"{cache}/org/one/model-Q8_0.gguf.part", "wb") as f:
        f.write(b"\0" * 1000)
    refuses(cache, "org/one", "another digest")
    gets(cache, "org/one", "org/one/model-Q8_0.gguf", BIG)


def test_tokens(cache):
    data = REPOS["org/gated"].files["m-Q8_0.gguf"]
    refuses(cache, "org/gated", "token", "401")
    refuses(cache, "org/gated", "401", env={"HF_TOKEN": "wrong"})
    SEEN.clear()
    gets(cache, "org/gated", "org/gated/m-Q8_0.gguf", data, env={"HF_TOKEN": "secret"})
    check(all(s[2] is None for s in SEEN if s[0] == "cdn"), "the token went to another host")
    check(all(s[2] == "Bearer secret" for s in SEEN if s[0] == "hub"), "the hub gets the token")
    os.remove(f"{cache}/org/gated/m-Q8_0.gguf")
    os.makedirs(f"{cache}/.cache/huggingface")
    with open(f"{cache}/.cache/huggingface/token", "w", encoding="ascii") as f:
        f.write("secret\n")
    gets(cache, "org/gated", "org/gated/m-Q8_0.gguf", data)
    with open(f"{cache}/.cache/huggingface/token", "w", encoding="ascii") as f:
        f.write("two\nlines\n")
    refuses(cache, "org/gated", "not one line")


def test_refusals(cache):
    refuses(cache, "org/absent", "404")
    refuses(cache, "org/many:Q2_K", "Q2_K", "m-Q8_0.gguf")
    refuses(cache, "org/hole", "lacks parts")
    refuses(cache, "org/nothing", "no GGUF file")
    refuses(cache, "org/wrong", "another digest")
    refuses(cache, "org/badgit", "another digest")
    refuses(cache, "org/long", "more bytes")
    refuses(cache, "org/short", "m-Q8_0.gguf")
    refuses(cache, "org/nodigest", "tells no digest")
    refuses(cache, "org/evil", "no GGUF file")
    refuses(cache, "org/loop", "redirect")
    refuses(cache, "org/file", "rotocol")
    refuses(cache, "org/junk", "lists no files")
    for bad in ("one", "../x/y", "a/../b", "a/b/c", "a/b:", "a//b", "a b/c", "./x"):
        refuses(cache, bad, "does not name a model")
    left = [f for f in files_under(cache) if f.endswith(".gguf")]
    check(left == [], f"files of refused models: {left}")


def test_cache(cache):
    for name in ("org/many", "org/many:F16", "org/one", "org/folder"):
        check(run(cache, name).returncode == 0, name)
    with open(f"{cache}/org/one/x.gguf.part", "wb") as f:
        f.write(b"x")
    listed = run(cache, command="models").stdout
    check("700 B" in listed and "m-F16-00001-of-00002.gguf" in listed and "00002-of" not in
          listed.replace("00001-of-00002", ""), listed)
    check("org/folder\n" in listed and "(unfinished)" in listed, listed)
    SEEN.clear()
    done = run(cache, "--offline", "org/many:q4_k_m")
    check(done.stdout.strip() == f"{cache}/org/many/m-Q4_K_M.gguf", done.stderr)
    check(SEEN == [], "offline asked the hub")
    done = run(cache, "--offline", "org/many")
    check(done.returncode == 1 and "say which" in done.stderr, done.stderr)
    done = run(cache, "--offline", "org/absent")
    check(done.returncode == 1 and "no model" in done.stderr, done.stderr)
    check(run(cache, "prune", command="models").stdout.startswith("removed 1,"), "prune")
    done = run(cache, "rm", "org/many/m-F16-00001-of-00002.gguf", command="models")
    check(done.stdout.startswith("removed 1, 700 B"), done.stdout + done.stderr)
    check(run(cache, "rm", "org/folder", command="models").returncode == 0, "rm folder")
    check(not os.path.exists(f"{cache}/org/folder"), "the folder stays")
    check(run(cache, "rm", "../../x", command="models").returncode == 1, "rm outside")
    old = f"{cache}/org/one/model-Q8_0.gguf"
    os.utime(old, (1, 1))
    done = run(cache, "prune", "--older-than", "30", command="models")
    check(done.returncode == 0 and not os.path.exists(old), "an old model stays")
    check(files_under(cache) == ["org/many/m-Q4_K_M.gguf"], files_under(cache))


def test_serve_finds(cache):
    """serve takes a name: it gets as far as reading the file, which is no model."""
    check(run(cache, "org/many:Q8_0").returncode == 0, "pull")
    for name in ("org/many:Q8_0", "m-Q8_0", "org/many/m-Q8_0.gguf"):
        done = subprocess.run([KVASIR, "serve", "--model", name, "--port", "0"], check=False,
                              capture_output=True, text=True, timeout=60,
                              env={**os.environ, "KVASIR_CACHE": cache})
        check(done.returncode == 1 and f"{cache}/org/many/m-Q8_0.gguf" in done.stderr, done.stderr)


with tempfile.TemporaryDirectory() as top:
    for test in (test_fetching, test_resuming, test_tokens, test_refusals, test_cache,
                 test_serve_finds):
        folder = os.path.join(top, "b" if test is test_resuming else test.__name__)
        os.makedirs(folder)
        if test is test_resuming:
            check(run(folder, "org/one").returncode == 0, "pull")
        test(folder)
        print("ok", test.__name__)
