import itertools
import os
import subprocess
import sys

from pama_exp.data.streams import random_state


def test_seeds_are_distinct_and_fit_63_bits():
    triples = list(itertools.product([0, 1, 11, 12], [0, 1, 2, 12, 111], ["prompts", "generate"]))
    seeds = {random_state(*triple) for triple in triples}
    assert len(seeds) == len(triples)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60  # all the bits are used


def test_seeds_are_the_same_in_every_process():
    code = "from pama_exp.data.streams import random_state; print(random_state(3, 5, 'generate'))"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(printed.stdout) == random_state(3, 5, "generate")
