"""Bad commands by the thousand: the composed configuration's keys and options, with something wrong about each.

Most are to be refused. Some are fine as they happen to fall, and then mean what they say: see commands.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

# As they are typed. None is one that a run could need hours or gigabytes for.
VALUES = (
    "-1", "0", "-0.5", "1.5", "nan", "inf", "-inf", "1e30", "-1e-30", "1" + "0" * 30, "abc", "'no'", "''", "' '",
    "null", "[1]", "[]", "[[1,2],[3]]", "{a:1}", "{}", "{a:{b:null}}", "true", "false", "'-1'", "1e400", "0x10",
    "1_000", "07",
    "é", "'a b'", "'../..'", "'/'", "'${seed}'", "${seed}", "${nothing.here}", "${oc.env:NO_SUCH_VARIABLE}", "${.x}",
    "'\\u202e'", "\"a'b\"", "'" + "x" * 400 + "'", "[nan]", "[null,1]", "[-1,2]", "{_target_:os.system}", "'os.system'",
    "range(0)", "range(3,1)", "choice()", "shuffle(1)", "glob(*)", "int(x)", "float([])", "str({a:1})", "tag(a,1)",
)  # fmt: skip
TARGETS = (
    "os.system", "builtins.eval", "no_such_module.Thing", "pama_exp", "pama_exp.", ".", "''", "pama_exp.nothing.There",
    "pama_exp.cli.app.main", "pama_exp.tracking.record.RunRecord", "collections.OrderedDict", "3", "null",
    "[a]", "a..b", "pama_exp.solvers.pama", "json", "'a b.c'", "builtins.object", "torch.nn.Linear",
    "pama_exp.errors.UserError",
)  # fmt: skip
PATHS = (
    "/nowhere",
    "''",
    "null",
    "3",
    "/dev/null",
    "/etc",
    "'a\\0b'",
    "[a]",
    "{a:1}",
    "'" + "y" * 300 + "'",
    "/proc/self",
)
FLAGS = (
    "--multi", "--cfg", "--cfg=nothing", "-x", "--config-dir=/nowhere", "--config-dir=/dev/null",
    "--config-name=nothing", "--resolve=3", "--package", "--info=nothing", "--config-path=/nowhere",
    "--experimental-rerun=/nowhere", "---", "-",
    "--unknown=1",
)  # fmt: skip
CHOSEN = (  # what the rest is said beside
    (), ("solver=linear",), ("solver=mgda",), ("advantage=group", "solver=linear"), ("stage=sft",), ("stage=evaluate",),
    ("stage=reward_model",), ("model=tiny-gpt2",), ("conditioning=embedding", "solver=linear"), ("objectives=helpful",),
    ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"), ("rollout=hf",), ("logger=none",), ("stage=soup",),
    ("stage=compare",), ("adapter=lora",), ("solver=cagrad",), ("data=file",),
)  # fmt: skip


@dataclass(frozen=True)
class Bad:
    """One command.

    Attributes:
        kind: what is wrong with it.
        words: of the command line.
        is_wrong: whether it can only be refused; otherwise it is refused or means what it says.
        said: {key: value} that it names, for those that may be accepted.
    """

    kind: str
    words: tuple[str, ...]
    is_wrong: bool
    said: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Language:
    """What commands are made of.

    Attributes:
        leaves: keys with single values.
        nodes: keys with keys below them.
        options: {group: its options}.
    """

    leaves: Sequence[str]
    nodes: Sequence[str]
    options: Mapping[str, Sequence[str]]


def language() -> Language:
    """Of the shipped configuration."""
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig

    from pama_exp.config import schema

    with initialize_config_dir(str(schema.CONF), version_base="1.3"):
        whole = compose("config", ["model=micro"])
    leaves, nodes = [], []

    def walk(node: DictConfig, path: str) -> None:
        for key in node:
            below = node._get_node(key)
            if isinstance(below, DictConfig) and not below._is_none():
                nodes.append(f"{path}{key}")
                walk(below, f"{path}{key}.")
            else:
                leaves.append(f"{path}{key}")

    walk(whole, "")
    groups = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in schema.CONF.iterdir()}
    options = {name: found for name, found in sorted(groups.items()) if found and name != "hydra"}
    harmless = ("output", "cache_dir", "force", "preflight")
    return Language([key for key in leaves if key not in harmless], nodes, options)


def commands(known: Language, count: int, seed: int) -> list[Bad]:
    """`count` of them, the same for the same seed."""
    source = random.Random(seed)
    kinds = list(KINDS.items())
    weights = [weight for _, (_, weight) in kinds]
    found = []
    for _ in range(count):
        kind, (make, _) = source.choices(kinds, weights)[0]
        beside = source.choice(CHOSEN) if source.random() < 0.5 else ()
        words, is_wrong, said = make(known, source)
        found.append(Bad(kind, (*beside, *words), is_wrong, tuple(said)))
    return found


# ---- kinds: each makes (words, whether they are certainly wrong, what they say) -----------------------------------

Made = tuple[list[str], bool, list[tuple[str, Any]]]


def _value(known: Language, source: random.Random) -> Made:
    key, value = source.choice(known.leaves), source.choice(VALUES)
    return [f"{key}={value}"], False, _said(key, value)


def _two_values(known: Language, source: random.Random) -> Made:
    first, second = _value(known, source), _value(known, source)
    return first[0] + second[0], False, (first[2] + second[2] if first[0] != second[0] else second[2])


def _node(known: Language, source: random.Random) -> Made:
    """A value where a group of settings is."""
    key = source.choice([node for node in known.nodes if node not in known.options])
    value = source.choice(("3", "null", "abc", "[1]", "true", "nan", "''", "[a,b]"))
    return [f"{key}={value}"], value not in ("null", "''"), []


def _added(known: Language, source: random.Random) -> Made:
    """A key that there is not, added with + or ++."""
    node = source.choice(["", *(f"{node}." for node in known.nodes)])
    key = f"{node}{source.choice(('nothing', 'x', 'Steps', '_x_', 'a.b', '0', 'steps_'))}"
    is_free = node.startswith(("model.config.", "objectives.")) or node in ("", "stage.")
    return [f"{source.choice(('+', '++'))}{key}={source.choice(VALUES)}"], not is_free, []


def _misspelt(known: Language, source: random.Random) -> Made:
    key = source.choice(known.leaves)
    wrong = _typo(key, source)
    return [f"{wrong}=1"], wrong not in (*known.leaves, *known.nodes, *known.options), []


def _option(known: Language, source: random.Random) -> Made:
    group = source.choice(sorted(known.options))
    wrong = source.choice(
        (_typo(source.choice(known.options[group]), source), "nothing", "..", "a/b", "'*'", "3", "pama.yaml")
    )
    return [f"{group}={wrong}"], wrong not in known.options[group], []


def _options(known: Language, source: random.Random) -> Made:
    """Something else than one option of a group."""
    group = source.choice(sorted(known.options))
    return [f"{group}={source.choice(('[a,b]', '[]', '{a:1}', '[1,null]', '1.5', 'true'))}"], True, []


def _deleted(known: Language, source: random.Random) -> Made:
    key = source.choice([*known.leaves, *known.nodes, *known.options])
    return [f"~{key}{source.choice(('', '', '=1', '=nothing'))}"], False, []


def _syntax(known: Language, source: random.Random) -> Made:
    key = source.choice(known.leaves)
    wrong = source.choice(
        (f"{key}", f"{key}=[1", f"{key}=1]", f"{key}={{a:1", f"{key}=a=b", f"{key}=1,", f"={key}", "=", f"{key}='a",
         f"{key}=a;b", f"{key}==1", f"{key}.=1", f".{key}=1", f"{key} = 1", f"{key}=(1)", f"{key}=${{", f"{key}=[,]",
         f"{key}=\\", f"{key}=%d", f"{key}=\x00", f"{key}=\n", f"+~{key}=1", f"+++{key}=1", f"{key}@=1", f"{key}:1")
    )  # fmt: skip
    return [wrong], True, []


def _sweep(known: Language, source: random.Random) -> Made:
    """Several values without --multirun."""
    return [f"{source.choice(known.leaves)}={source.choice(('1,2', 'a,b', 'null,1', '[1],[2]'))}"], True, []


def _target(known: Language, source: random.Random) -> Made:
    key = source.choice([leaf for leaf in known.leaves if leaf.endswith("_target_")])
    value = source.choice(TARGETS)
    return [f"{key}={value}"], True, []


def _scorer(known: Language, source: random.Random) -> Made:
    """An objective that is scored by nothing that there is."""
    where = f"objectives.{source.choice(('helpful', 'concise'))}.scorers.{source.choice(('factworld', 'any'))}"
    wrong = source.choice(
        ("{function:'no:thing'}", "{function:3}", "{function:'os'}", "{function:':'}", "{program:nothing}",
         "{program:3}", "{url:'http://'}", "{_target_:os.system}", "{}", "null", "3", "[]",
         "{function:'os:nothing',program:helpful}",
         "{funktion:'a:b'}", "{_target_:pama_exp.rewards.http.HttpScorer,url:'ftp://x/'}",
         "{_target_:pama_exp.rewards.http.HttpScorer,url:'http://h',timeout:-1}", "{program:[helpful]}")
    )  # fmt: skip
    return [f"++{where}={wrong}"], where.endswith("factworld") and wrong not in ("null", "{}"), []


def _objectives(known: Language, source: random.Random) -> Made:
    wrong = source.choice(
        ("[]", "[helpful,helpful]", "[helpfull]", "null", "3", "{a:1}", "[[helpful]]", "[null]", "'*'", "[helpful,3]",
         "helpful,concise", "['../x']", "[helpful,concise,]", "nothing", "''")
    )  # fmt: skip
    return [f"objectives={wrong}"], True, []


def _path(known: Language, source: random.Random) -> Made:
    """A folder or file that is none."""
    stage, key = source.choice(
        (("evaluate", "evaluate.run"), ("soup", "soup.runs"), ("compare", "compare.runs"), ("align", "model.path"),
         ("align", "model.weights"), ("align", "model.tokenizer"), ("align", "output"), ("align", "cache_dir"),
         ("align data=file", "data.path"))
    )  # fmt: skip
    value = source.choice(PATHS)
    value = f"[{value},{value}]" if key in ("soup.runs", "compare.runs") and source.random() < 0.5 else value
    is_wrong = key in ("soup.runs", "compare.runs") or (key == "evaluate.run" and value not in ("null",))
    return [*f"stage={stage}".split(), f"{key}={value}"], is_wrong, []


def _flag(known: Language, source: random.Random) -> Made:
    """A flag that there is not, or one behind an override."""
    flag = source.choice(FLAGS)
    return source.choice(([flag, "seed=1"], ["seed=1", flag])), True, []


def _package(known: Language, source: random.Random) -> Made:
    """Hydra's own keys and packages, misused."""
    wrong = source.choice(
        ("hydra.run.dir=3", "hydra/launcher=nothing", "hydra.mode=nothing", "hydra=null", "hydra.job.nothing=1",
         "solver@model=pama", "+solver@=pama", "solver@solver=linear", "hydra/nothing=a", "hydra.searchpath=3",
         "hydra.searchpath=[file:///nowhere]", "hydra.sweep.dir=null", "+hydra.x=1", "hydra.launcher.workers=-1",
         "+experiment=nothing", "+sweep=nothing", "debug=nothing", "+debug=fast", "experiment=[a]")
    )  # fmt: skip
    return [wrong], False, []


KINDS: Mapping[str, tuple[Callable[[Language, random.Random], Made], float]] = {
    "an odd value": (_value, 6.0),
    "two odd values": (_two_values, 2.0),
    "a value for a group": (_node, 1.0),
    "a key that is none": (_added, 1.5),
    "a misspelt key": (_misspelt, 1.0),
    "an option that is none": (_option, 1.0),
    "several options": (_options, 0.5),
    "a deletion": (_deleted, 1.0),
    "syntax": (_syntax, 1.5),
    "a sweep that is none": (_sweep, 0.5),
    "a _target_ of the wrong kind": (_target, 1.0),
    "a scorer that is none": (_scorer, 1.0),
    "objectives that are none": (_objectives, 0.5),
    "a path that is none": (_path, 1.5),
    "a flag that is none": (_flag, 0.5),
    "Hydra's own": (_package, 0.5),
}


def _typo(word: str, source: random.Random) -> str:
    """One letter more, less, or in another place."""
    at = source.randrange(len(word))
    return source.choice(
        (word[:at] + word[at + 1 :] or "x", word[:at] + word[at] + word[at:], word[:at] + word[at:][::-1], f"{word}s")
    )


def _said(key: str, value: str) -> list[tuple[str, Any]]:
    """What the override says, where it is a plain value."""
    if "$" in value or "(" in value or value.startswith(("{", '"')) or value in ("0x10", "1_000", "07"):
        return []
    try:
        return [(key, yaml.safe_load(value))]
    except yaml.YAMLError:
        return []
