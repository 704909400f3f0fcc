"""Every bad input gets one clear OpenAI error object, and the server lives on."""

import json
import socket
import time

from server import JSON, Server, check

s = Server.fake("--body-limit", "64K", "--header-timeout", "2", "--idle-timeout", "3")
CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"


def object_of(content, what):
    try:
        error = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        check(False, f"{what}: no error object in {content[:200]!r}")
    check(set(error) == {"message", "type", "param", "code"}, f"{what}: fields {sorted(error)}")
    check(isinstance(error["message"], str) and error["message"], f"{what}: message")
    check(isinstance(error["type"], str) and error["type"], f"{what}: type")
    check(error["param"] is None or isinstance(error["param"], str), f"{what}: param")
    check(error["code"] is None or isinstance(error["code"], str), f"{what}: code")
    return error


def expect(status, method, path, body=None, *, param=None, code=None, says="", headers=None):
    got, reply_headers, content = s.request(method, path, body, headers)
    what = f"{method} {path} {str(body)[:100]}"
    check(got == status, f"{what}: {got} instead of {status}: {content[:300]!r}")
    check(reply_headers["x-request-id"], f"{what}: no x-request-id")
    error = object_of(content, what)
    check(param is None or error["param"] == param, f"{what}: param {error['param']!r}")
    check(code is None or error["code"] == code, f"{what}: code {error['code']!r}")
    check(says in error["message"], f"{what}: {error['message']!r} does not say {says!r}")
    return reply_headers


# Bodies.
for path in (CHAT, COMPLETION, "/tokenize", "/detokenize"):
    expect(400, "POST", path, b"", headers=JSON, code="invalid_json", says="no body")
    for body in (b"{", b"nope", b"{}x", b'{"a":1,"a":2}', b"\xff\xfe", b'"\\ud800"',
                 b'{"prompt":"a\\u0000b"}', b"[" * 100, b'{"n":01}', b'{"n":1e999}'):
        expect(400, "POST", path, body, headers=JSON, code="invalid_json")
    expect(400, "POST", path, b"[]", headers=JSON, code="invalid_type", says="JSON object")
    expect(400, "POST", path, b"{}", headers=JSON, code="missing_required_parameter")
expect(400, "POST", COMPLETION, b'{"prompt":' + b"[0," * 20000, headers=JSON)

# Parameters: both ends of some ranges; the unit tests have them all.
for name, value in (("temperature", 2.5), ("temperature", "hot"), ("top_p", -1), ("n", 0), ("n", 99),
                    ("max_tokens", -5), ("max_tokens", 1.5), ("stop", [""]), ("stop", 5),
                    ("logit_bias", {"999999": 1}), ("seed", "x"), ("stream", "yes"), ("model", 5)):
    expect(400, "POST", COMPLETION, {"prompt": "x", name: value}, param=name)
for prompt in ([-1], [10**9], [1.5], [[]], [], {}, 5, [["a"]]):
    expect(400, "POST", COMPLETION, {"prompt": prompt})
expect(404, "POST", COMPLETION, {"prompt": "x", "model": "gpt-9"}, param="model",
       code="model_not_found", says="gpt-9")
expect(404, "POST", CHAT, {"messages": [{"role": "user", "content": "x"}], "model": "gpt-9"},
       code="model_not_found")
expect(404, "GET", "/v1/models/gpt-9", code="model_not_found")
expect(400, "POST", COMPLETION, {"prompt": "x " * 4000}, param="prompt",
       code="context_length_exceeded", says="4096")
expect(400, "POST", COMPLETION, {"prompt": [5] * 5000}, code="context_length_exceeded", says="5000")
expect(400, "POST", CHAT, {"messages": [{"role": "user", "content": "x" * 5000}]},
       param="messages", code="context_length_exceeded")
expect(400, "POST", CHAT, {"messages": [{"role": "king", "content": "x"}]},
       param="messages[0].role")
expect(400, "POST", CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
       param="messages[0].content[0]")
expect(400, "POST", CHAT, {"messages": [{"role": "user", "content": "x"}],
                           "response_format": {"type": "json_object"}}, param="response_format")
expect(400, "POST", CHAT, {"messages": [{"role": "user", "content": "x"}],
                           "tools": [{"type": "browser"}]}, param="tools[0]")
expect(400, "POST", COMPLETION, {"prompt": "x", "suffix": "y"}, param="suffix")
expect(400, "POST", "/detokenize", {"tokens": [10**7]}, param="tokens")
expect(400, "POST", "/tokenize", {"content": 5}, param="content")

# Paths, methods, types, sizes.
expect(404, "GET", "/", code="not_found")
expect(404, "POST", "/v1/nothing", {"a": 1}, code="not_found")
expect(404, "GET", "/v1/%63ompletions", code="not_found")
expect(404, "GET", "/v1/../health", code="not_found")
check(expect(405, "GET", CHAT)["Allow"] == "POST, OPTIONS", "Allow of chat")
check(expect(405, "DELETE", "/v1/models")["Allow"] == "GET, HEAD, OPTIONS", "Allow of models")
expect(405, "PUT", COMPLETION, {"prompt": "x"})
expect(415, "POST", COMPLETION, b'{"prompt":"x"}', headers={"Content-Type": "text/plain"})
expect(415, "POST", COMPLETION, b'{"prompt":"x"}', headers={})
expect(413, "POST", COMPLETION, b'{"prompt":"' + b"x" * 100000 + b'"}', headers=JSON,
       code="request_too_large", says="65536")
expect(413, "POST", COMPLETION, b'{"prompt":"' + b"x" * 600000 + b'"}', headers=JSON)
expect(414, "GET", "/" + "x" * 5000)
expect(431, "GET", "/health", headers={"X-Big": "x" * 20000})

# The body of a refused request is read to its end, and the connection goes on.
c = s.connect()
for _ in range(3):
    status, _, _ = s.request("POST", "/v1/nothing", b"x" * 70000, connection=c)
    check(status == 404, f"refused on a kept connection: {status}")
    status, _, content = s.request("GET", "/health", connection=c)
    check((status, json.loads(content)) == (200, {"status": "ok"}), "health on the same connection")
c.close()


# Heads that a proxy in front may read differently: 400 (or no reply), and the connection closed.
def raw_head(*lines, body=b""):
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


POST = "POST /v1/completions HTTP/1.1"
TYPE = "Content-Type: application/json"
BODY = b'{"prompt":"x","max_tokens":1}'
NEXT = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"  # must never be answered
smuggles = [
    raw_head(POST, "Host: a", TYPE, "Content-Length: 29", "Content-Length: 0", body=BODY),
    raw_head(POST, "Host: a", TYPE, "Content-Length: 29", "Content-Length: 29", body=BODY),
    raw_head(POST, "Host: a", TYPE, "Content-Length: 4", "Transfer-Encoding: chunked",
             body=b"0\r\n\r\n" + NEXT),
    raw_head(POST, "Host: a", TYPE, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked",
             body=b"0\r\n\r\n" + NEXT),
    raw_head(POST, "Host: a", TYPE, "Transfer-Encoding: identity", "Content-Length: 29", body=BODY),
    raw_head(POST, "Host: a", TYPE, "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + NEXT),
    raw_head(POST, "Host: a", TYPE, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + NEXT),
    raw_head(POST, "Host: a", TYPE, "Transfer-Encoding : chunked", body=b"0\r\n\r\n" + NEXT),
    raw_head(POST, "Host: a", TYPE, "Content-Length: +29", body=BODY),
    raw_head(POST, "Host: a", TYPE, "Content-Length: 0x1d", body=BODY),
    raw_head(POST, "Host: a", TYPE, "Content-Length: 29,29", body=BODY),
    raw_head(POST, "Host: a", TYPE, "Content-Length: -1", body=BODY),
    raw_head(POST, "Host: a", "Host: b", TYPE, "Content-Length: 29", body=BODY),
    raw_head(POST, TYPE, "Content-Length: 29", body=BODY),
    raw_head("GET /health HTTP/1.1", "Host: a", "X Y: 1"),
    raw_head("GET /hea lth HTTP/1.1", "Host: a"),
    raw_head("GET /health\x01 HTTP/1.1", "Host: a"),
    raw_head("GET /health HTTP/9.9", "Host: a"),
    raw_head("GET http://a/health HTTP/1.1", "Host: a"),
    raw_head("NONSENSE"),
    b"\x00\x01\x02\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,  # a TLS hello
]
for data in smuggles:
    reply = s.raw(data, timeout=5)
    first = reply.split(b"\r\n", 1)[0]
    check(not reply or first.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"HTTP/1.0 4")),
          f"{data[:120]!r} was answered {first!r}")
    check(b'"object":"list"' not in reply, f"{data[:120]!r}: what follows it was answered")

# A body that is far too long, or that asks first, is refused before it is sent.
for more in ("Expect: 100-continue", "X: y"):
    size = 100 if more == "X: y" else 1
    reply = s.raw(raw_head(POST, "Host: a", TYPE, more, f"Content-Length: {size << 20}"))
    check(reply.startswith(b"HTTP/1.1 413"), f"a long body with {more}: {reply[:200]!r}")
    object_of(reply.split(b"\r\n\r\n", 1)[1], "413 before the body")

# Slow ones are cut: a head that trickles, a body that stops, a connection without use.
def cut_after(data, least, most, what):
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", s.port), timeout=most + 5) as sock:
        sock.sendall(data)
        while True:
            try:
                if not sock.recv(65536):
                    break
            except ConnectionResetError:
                break
    took = time.monotonic() - begin
    check(least <= took <= most, f"{what} was cut after {took:.1f} s, not {least}…{most}")


cut_after(b"GET /health HTTP/1.1\r\nHost: a\r\nX", 1.5, 4, "a half head")
cut_after(raw_head(POST, "Host: a", TYPE, "Content-Length: 29", body=b'{"pro'), 1.5, 4, "a half body")
cut_after(raw_head("GET /health HTTP/1.1", "Host: a"), 2.5, 5, "an idle connection")

# What is sensible works: HEAD, OPTIONS, HTTP/1.0, a client's own request id, chunked bodies.
status, headers, content = s.request("HEAD", "/v1/models")
check((status, content) == (200, b""), "HEAD")
status, headers, content = s.request("OPTIONS", CHAT)
check((status, headers["Allow"]) == (204, "POST, OPTIONS"), f"OPTIONS: {status}")
check("Access-Control-Allow-Origin" not in headers, "CORS is off")
reply = s.raw(b"GET /health HTTP/1.0\r\n\r\n")
check(b'{"status":"ok"}' in reply, f"HTTP/1.0: {reply[:200]!r}")
_, headers, _ = s.request("GET", "/health", headers={"X-Request-Id": "my-id.1"})
check(headers["x-request-id"] == "my-id.1", "the client's request id")
_, headers, _ = s.request("GET", "/health", headers={"X-Request-Id": "no good"})
check(headers["x-request-id"].startswith("req-"), "a bad request id is replaced")
reply = s.raw(raw_head(POST, "Host: a", TYPE, "Transfer-Encoding: chunked", "Connection: close",
                       body=b"10\r\n" + BODY[:16] + b"\r\nd\r\n" + BODY[16:] + b"\r\n0\r\n\r\n"))
check(reply.startswith(b"HTTP/1.1 200"), f"a chunked body: {reply[:200]!r}")

check(s.alive(), "the server is alive")
status, answer = s.post(COMPLETION, {"prompt": "x", "max_tokens": 3})
check(status == 200 and answer["choices"][0]["text"], "it still answers")
m = s.check_given_back("after all refusals")
check(s.stop() == 0, "it ends in order")
refused = m["kvasir_http_requests_total{status=\"4xx\"}"]
print(f"passed: {refused:.0f} refusals")
