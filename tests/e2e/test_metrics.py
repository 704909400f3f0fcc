"""/metrics is well-formed Prometheus text 0.0.4, and its figures are those of what was asked."""

import re

from server import JSON, Server, check

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\} ([0-9.eE+-]+|NaN|[+-]Inf)')
LABEL = re.compile(r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"')


def parse(text):
    """Checks the page line by line; {name: type}, [(name, labels, value)]"""
    types, helps, samples, seen = {}, set(), [], set()
    check(text.endswith("\n"), "the page ends with a newline")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            check(name not in helps, f"HELP of {name} twice")
            helps.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            check(name in helps and name not in types, f"TYPE of {name}")
            check(kind in ("counter", "gauge", "histogram"), f"TYPE {kind}")
            types[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            check(found, f"not a sample: {line!r}")
            name, labels, value = found.groups()
            check(LABEL.sub("", labels).strip(",") == "", f"labels {labels!r}")
            family = name if name in types else re.sub(r"_(bucket|sum|count)$", "", name)
            check(types.get(family), f"{name} has no TYPE before it")
            check(types[family] != "counter" or name.endswith("_total"), f"{name} is a counter")
            check((name, labels) not in seen, f"{name}{{{labels}}} twice")
            seen.add((name, labels))
            samples.append((name, dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', labels)),
                            float(value)))
    return types, samples


def check_histograms(types, samples):
    for family in (n for n, kind in types.items() if kind == "histogram"):
        buckets = [(float(l["le"]), v) for n, l, v in samples if n == family + "_bucket"]
        check(buckets == sorted(buckets), f"{family}: buckets out of order or shrinking")
        check(buckets[-1][0] == float("inf"), f"{family}: no +Inf")
        count = [v for n, _, v in samples if n == family + "_count"]
        check(count == [buckets[-1][1]], f"{family}: count {count}, +Inf {buckets[-1][1]}")


s = Server.fake("--alias", 'quo"te\\x', ("--fake-never-eog",))
for _ in range(3):
    status, answer = s.post("/v1/completions", {"prompt": [5, 6, 7, 8], "max_tokens": 10, "n": 2})
    check(status == 200, f"completion: {answer}")
s.post("/v1/completions", {"prompt": "x", "model": "other"})
s.wait_idle()
status, headers, content = s.request("GET", "/metrics")
check(headers["Content-Type"].startswith("text/plain; version=0.0.4"), "content type")
types, samples = parse(content.decode())
check_histograms(types, samples)
values = {(n, l.get("status") or l.get("finished_reason") or l.get("state") or ""): v
          for n, l, v in samples}


def figure(name, want, label=""):
    got = values.get(("kvasir_" + name, label))
    check(got == want, f"{name} {label}: {got}, not {want}")


check(all(l["model_name"] == 'quo\\"te\\\\x' for _, l, _ in samples), "model_name is escaped")
figure("prompt_tokens_total", 24)
figure("generation_tokens_total", 60)
figure("request_success_total", 6, "length")
figure("request_success_total", 0, "error")
figure("http_requests_total", 1, "4xx")
figure("num_requests_running", 0)
figure("num_requests_waiting", 0)
figure("request_prompt_tokens_sum", 24)
figure("request_generation_tokens_count", 6)
figure("time_to_first_token_seconds_count", 6)
figure("e2e_request_latency_seconds_count", 6)
figure("kv_frames", 0, "active")
figure("up", 1)
for name in ("inter_token_latency_seconds", "request_queue_time_seconds", "kv_cache_usage_perc",
             "process_resident_memory_bytes", "num_preemptions_total"):
    check("kvasir_" + name in types, f"{name} is missing")
check(s.stop() == 0, "it ends in order")
print(f"passed: {len(types)} metrics, {len(samples)} samples")
