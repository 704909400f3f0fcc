#!/usr/bin/env python3
"""Prints "pass|fail|skip NAME" for each line of meson's testlog.json files."""
import json
import sys

WORDS = {"OK": "pass", "EXPECTEDFAIL": "pass", "SKIP": "skip"}

for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as log:
        for line in log:
            test = json.loads(line)
            print(WORDS.get(test["result"], "fail"), test["name"])
