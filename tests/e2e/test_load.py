"""wrk posts completions over 1,000 connections to the fake engine: no reply but 2xx, and afterwards
everything is given back."""

import os
import resource
import time

from server import Server, check, skip, wrk

N_CONNECTION = 1000
SECONDS = 8

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if hard != resource.RLIM_INFINITY and hard < 3 * N_CONNECTION:
    skip(f"only {hard} files may be open")
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

s = Server.fake()
lua = os.path.join(os.path.dirname(os.path.abspath(__file__)), "post.lua")
got = wrk("-t2", f"-c{N_CONNECTION}", "--timeout", "30s", "-s", lua,
          f"http://127.0.0.1:{s.port}/v1/completions", seconds=SECONDS)
check(got["requests"] > N_CONNECTION, f"hardly any request was answered: {got}")
check(got["non_2xx"] == 0, f"replies other than 2xx: {got}")
check(got["socket_errors"] == 0, f"socket errors: {got}")
m = s.check_given_back("after the load")
until = time.monotonic() + 10
while m["kvasir_http_connections"] > 1:
    check(time.monotonic() < until, f"{m['kvasir_http_connections']} connections are left")
    time.sleep(0.1)
    m = s.metrics()
check(s.stop() == 0, "it ends in order")
print(f"passed: {got['requests']} completions in {SECONDS} s over {N_CONNECTION} connections, "
      f"{got['per_s']:.0f}/s, p99 {got['p99_ms']:.0f} ms, all 2xx")
