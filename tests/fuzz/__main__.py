"""`python -m tests.fuzz --seed N --inputs N`: the loop in this process; `--wire`: an engine's sockets."""

from __future__ import annotations

import argparse
import random
import time

from tests.fuzz import serving, wire
from tests.fuzz.commands import Commands
from tests.fuzz.corpus import Corpus, keep_broken
from tests.fuzz.measure import rss


def main() -> None:
    """Fuzz, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="repeats a run; chosen and printed by default")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--wire", action="store_true", help="over the sockets of a real engine")
    parser.add_argument("--keys", action="store_true", help="with --wire: the engine demands keys on tcp")
    parser.add_argument("--save", action="store_true", help="keep a frame for each new outcome in the corpus")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {options.inputs} inputs", flush=True)
    if options.wire:
        wire.run(seed, options.inputs, with_keys=options.keys)
    else:
        _in_process(seed, options.inputs, save=options.save)


def _in_process(seed: int, inputs: int, *, save: bool) -> None:
    corpus = Corpus()
    chance = random.Random(seed)
    began, done, seen, sizes = time.monotonic(), 0, set[str](), [rss()]

    def learn(outcome: str, frame: bytes) -> None:
        seen.add(outcome)
        corpus.learn(outcome, frame)

    try:
        serving.serve(((frame, serving.TRUSTED) for frame in corpus.frames), learn)
        while done < inputs:
            count = min(serving.LIFE_INPUTS, inputs - done)
            facts = serving.serve(serving.from_chance(Commands(chance, corpus.frames), count), learn)
            done += count
            sizes.append(rss())
            print(
                f"{done} inputs, {len(seen)} outcomes, {facts} facts in the last log, {sizes[-1] >> 20} MiB",
                flush=True,
            )
    except serving.Broken as error:
        for frame in error.frames[:100]:
            print("kept", keep_broken(frame))
        raise
    if save:
        corpus.save()
    half = len(sizes) // 2
    took = time.monotonic() - began
    print(f"{len(seen)} distinct outcomes in {took:.0f} s, {inputs / took:.0f} inputs a second")
    held = " to ".join(f"{size >> 20} MiB" for size in (sizes[0], sizes[half], sizes[-1]))
    print(f"resident at the start, half way and at the end: {held}")


if __name__ == "__main__":
    main()
