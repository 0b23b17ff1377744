"""One side of a comparison: a process that runs nnkernels of one commit, turn by turn, as asked.

A request is a line of JSON on standard input, and so is its answer on standard output:
``{"do": "open", "problem": {...}, "out": false}`` makes arrays and warms up, ``{"do": "turn",
"seconds": 0.025}`` answers with the seconds of a call, run by run, and ``{"do": "close"}`` gives
the memory back. An answer with ``"error"`` says why there is no other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

Answer = Callable[[dict[str, Any]], None]


def serve(answer: Answer, backend: str, threads: int | None) -> None:
    """Carry out requests until standard input ends."""
    # Here, so that what an older nnkernels lacks is an answer too.
    try:
        import session
        from measure import Bench, prepared
        from problems import Problem
        from timing import Settings, calibrated, take_turn

        import nnkernels

        threads = session.set_threads(threads)
    except Exception as reason:
        answer({"error": f"{type(reason).__name__}: {reason}"})
        return
    answer({"package": os.path.dirname(nnkernels.__file__), "threads": threads})

    @contextlib.contextmanager
    def opened(request: dict[str, Any]) -> Any:
        problem = Problem(**{**request["problem"], "shape": tuple(request["problem"]["shape"])})
        with session.arrays(backend, ()) as (xp, clock):
            warm, cache, memory = session.sizes(xp)
            bench = Bench(
                xp, backend, [], clock, Settings(), warm, cache, memory, None, None, request["out"]
            )
            provider, number = prepared(problem, bench), itertools.count()
            timing = calibrated(provider, clock, number)

            def turn(seconds: float) -> list[float]:
                first = len(timing.runs)
                take_turn(provider, timing, clock, number, seconds)
                return timing.runs[first:]

            yield turn, timing.first_seconds

    turn = None
    with contextlib.ExitStack() as at_hand:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                if request["do"] == "turn" and turn is not None:
                    answer({"runs": turn(request["seconds"])})
                    continue
                turn = None
                at_hand.close()
                if request["do"] == "open":
                    turn, first = at_hand.enter_context(opened(request))
                    answer({"seconds": first})
                else:
                    answer({})
            except Exception as reason:  # whatever a kernel raises, the other side goes on
                answer({"error": f"{type(reason).__name__}: {reason}"})


def main() -> None:
    # What anybody prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    serve(answer, **json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
