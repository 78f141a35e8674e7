"""The process behind `measuring.Worker`: one request a line, one answer a line.

{"make": "module:function", "arguments": {...}}   calls to measure, a dict by name   -> their names
{"visit": [names], "seconds": s}                  shuffled calls for s seconds       -> {name: [seconds]}
{"memory": name, "counter": "module:function"}    one call                           -> bytes it adds at its peak
{"run": "module:function", "arguments": {...}}    any function                       -> what it returns
"""

import importlib
import json
import os
import random
import sys
import time
import traceback


def answer(request, calls):
    """Serves a request; `calls` is kept from one to the next."""
    if "make" in request:
        calls.clear()
        calls.update(_function(request["make"])(**request["arguments"]))
        return list(calls)
    if "run" in request:
        return _function(request["run"])(**request["arguments"])
    if "memory" in request:
        call = calls[request["memory"]]
        call()  # what stays after the first call, such as a compiled graph, is there
        return _function(request["counter"])(call)
    return _visit({name: calls[name] for name in request["visit"]}, request["seconds"])


def _visit(calls, seconds):
    times = {name: [] for name in calls}
    for call in calls.values():  # what the processor's caches hold is another worker's
        call()
    end = time.perf_counter() + seconds
    while not times[next(iter(times))] or time.perf_counter() < end:
        for name in random.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def _function(name):
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)


def main():
    """Answers requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    calls = {}
    for line in sys.stdin:
        try:
            reply = {"result": answer(json.loads(line), calls)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
