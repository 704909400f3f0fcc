"""A stream whose prompt takes long: comments come until the first token, clients skip them, and what
fails after them is told in the stream. Quick streams and plain replies have none."""

import json
import time

from server import JSON, Server, check

PATH = "/v1/completions"


def raw_stream(s, **more):
    """Status, the share of the time that passed until the reply began, and its text."""
    c = s.connect()
    begin = time.monotonic()
    c.request("POST", PATH, json.dumps({"prompt": "x" * 150, "max_tokens": 3, "stream": True,
                                        **more}), JSON)
    reply = c.getresponse()
    head_s = time.monotonic() - begin
    text = reply.read().decode()
    c.close()
    return reply.status, head_s / (time.monotonic() - begin), text


s = Server.fake("--sse-ping", "1", ("--fake-row-us", 25000))
status, share, text = raw_stream(s)
before = text.split("data: ")[0]
check(status == 200 and share < 0.8, f"the reply begins with the first comment: {share:.2f}")
check(": ping\n\n" in before and not before.replace(": ping\n\n", ""), f"pings: {before!r}")
check(text.endswith("data: [DONE]\n\n") and '"finish_reason":"' in text, "and it ends as always")
status, _, text = raw_stream(s, stream=False)
check(status == 200 and "ping" not in text, "a plain reply has none")
check(s.stop() == 0, "it ends in order")

s = Server.fake("--sse-ping", "1", "--request-timeout", "2", ("--fake-row-us", 25000))
status, _, text = raw_stream(s)
check(status == 200 and ": ping\n\n" in text and '"code":"timeout"' in text
      and text.endswith("data: [DONE]\n\n"), f"an error after a ping is in the stream: {text!r}")
check(s.stop() == 0, "it ends in order")

s = Server.fake("--sse-ping", "0", ("--fake-row-us", 10000))
check("ping" not in raw_stream(s)[2], "none where they are off")
check(s.stop() == 0, "it ends in order")
print("passed")
