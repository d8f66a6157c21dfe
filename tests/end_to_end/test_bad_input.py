"""The user's mistakes: two lines that say what is wrong, where, and what would be right; status 2; no traceback."""

import pytest

from commands import FAST, run_command, run_config, run_here
from pama_exp.assembly.setup import resolve
from pama_exp.cli import execute
from pama_exp.cli.command_line import check_command_line
from pama_exp.cli.compose import configure
from pama_exp.errors import UserError

MISTAKES = [
    (["objectives=[helpfull,concise]"], ["helpfull", "helpful", "polite"]),
    (["objectives=[helpful,helpful]"], ["helpful", "twice"]),
    (["objectives=[]"], ["objectives=[]"]),
    (["objectives=[null]"], ["objectives=[null] is no option's name"]),
    (["solver=null"], ["solver=null is no option's name"]),
    (["solver=pamma"], ["pamma", "Did you mean 'pama'?", "cagrad"]),
    (["model=tinny"], ["tinny", "tiny"]),
    (["trainng.steps=3"], ["trainng", "training"]),
    (["training.step=3"], ["training.step", "steps"]),
    (["+training.step=3"], ["training.step", "steps"]),
    (["training.steps=many"], ["training.steps", "many"]),
    (["solver.granularty=token"], ["granularty", "granularity"]),
    (["+solver.granularty=token"], ["granularty", "granularity"]),
    (["solver.granularity=word"], ["word", "token", "sequence", "batch"]),
    (["reward=golden"], ["golden", "gold"]),
    (["solver.weights=[1,2,3]"], ["3 values", "2 objectives"]),
    (["solver.weights=[-1,2]"], ["-1"]),
    (["solver.weights=[0,0]"], ["0"]),
    (["objectives.concise.weight=-0.5"], ["-0.5"]),
    (["objectives.concise.normaliser=mean"], ["mean", "running"]),
    (["objectives.concise.scorers.factworld.program=brief"], ["brief"]),
    (["training.mini_batch_size=5"], ["batch_size=16", "mini_batch_size=5"]),
    (["advantage=group", "advantage.group_size=3"], ["group_size=3"]),
    (["training.steps=0"], ["training.steps=0"]),
    (["training.clip=1.5"], ["1.5"]),
    (["training.kl.estimator=k4"], ["k4", "k1"]),
    (["rollout.sampling.max_new_tokens=200"], ["200", "96"]),
    (["rollout.sampling.top_p=0.9"], ["top_p"]),
    (["rollout.sampling.temperature=0"], ["temperature"]),
    (["data.world.size=3"], ["size"]),
    (["model.config.hidden=3"], ["hidden"]),
    (["model.config.word_embed_proj_dim=''"], ["model.config.word_embed_proj_dim= is of another kind than opt takes"]),
    (["model.config.ffn_dim=[1]"], ["model.config.ffn_dim=[1] is of another kind"]),
    (["model.architecture=optt"], ["optt", "opt"]),
    (["model.path=/nowhere/at/all"], ["/nowhere/at/all"]),
    (["stage=evaluate", "evaluate.run=/nowhere"], ["/nowhere"]),
    (["logger.mode=sometimes"], ["sometimes", "offline"]),
    (["trainer=gpu"], ["accelerator=gpu", "trainer=cpu"]),
    (["trainer.devices=2"], ["trainer.devices=2", "trainer=ddp", "trainer=fsdp"]),
    (["trainer.devices=-1"], ["trainer.devices=-1", "cpu"]),
    (["trainer.strategy=dpp"], ["dpp", "ddp"]),
    (["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3"], ["mini_batch_size=16", "3 processes"]),
    (["trainer.cpu_offload=true"], ["cpu_offload", "fsdp"]),
    (
        ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "rollout.engine.graphs=true"],
        ["graphs", "trainer=ddp"],
    ),
    (["rollout.engine.graphs=maybe"], ["rollout.engine.graphs=maybe", "true or false"]),
    (["rollout.engine.rows_at_once=many"], ["rollout.engine.rows_at_once=many", "a whole number or null"]),
    (["solver.noon=1"], ["solver.noon=1", "true or false"]),
    (["advantage.gamma=high"], ["advantage.gamma=high", "a number"]),
    (["training.gramian.target=lora"], ["lora", "adapter"]),
    (["training.gramian.target=adapter"], ["adapter"]),
    (["training.gramian.sketch_dimension=0"], ["sketch_dimension=0"]),
    (["output=/proc/run"], ["/proc/run"]),
    (["rollout=3"], ["rollout=3", "fast"]),
    (["logger=[]"], ["logger=[]", "wandb"]),
    (["stage._target_=builtins.eval"], ["builtins.eval", "(setup, record)"]),
    (["stage._target_=json."], ["json.", "no attribute ''"]),
    (["stage._target_=nothing.at_all"], ["No module named 'nothing'"]),
    (["stage._target_=..a.b"], ["stage._target_=..a.b"]),
    (["stage._target_=pama_exp.cli.app.main"], ["pama_exp.cli.app.main", "(setup, record)"]),
    (["~objectives.helpful", "~objectives.concise"], ["There is no objective", "objectives=[helpful,concise]"]),
    (["objectives.helpful=null"], ["objectives.helpful=null"]),
    (["objectives.helpful.scorers.text._target_=''"], ["objectives.helpful.scorers.text._target_=", "not blank"]),
    (["objectives.helpful.scorers.text.revision=%d"], ["objectives.helpful.scorers.text.revision", "branch"]),
    (["objectives.helpful.scorers.text._target_=a..b"], ["objectives.helpful.scorers.text", "a..b"]),
    (["objectives.helpful.scorers.text._target_=."], ["objectives.helpful.scorers.text", "cannot import"]),
    (["objectives.helpful.scorers.text._target_=no_such_module.Thing"], ["scorers.text", "no_such_module"]),
    (["objectives.helpful.scorers.text._target_=pama_exp.solvers.pama"], ["scorers.text", "pama_exp.solvers.pama"]),
    (["objectives.concise.scorers.text={_target_: collections.OrderedDict}"], ["scorers.text", "score"]),
    (["objectives.helpful.scorers.text.path=' '"], ["objectives.helpful.scorers.text.path", "not blank"]),
    (["cache_dir=' '"], ["cache_dir", "not blank"]),
    (["stage=evaluate", f"evaluate.run='{'y' * 300}'"], ["evaluate.run=y", "policy/"]),
]


@pytest.mark.parametrize(("overrides", "said"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES])
def test_a_mistake_is_named_before_any_work(overrides, said, tmp_path):
    cache = tmp_path / "cache"
    output = [] if any(o.startswith("output=") for o in overrides) else [f"output={tmp_path / 'run'}"]
    from commands import composed

    with pytest.raises(UserError) as caught:
        run_config(composed(*FAST, f"cache_dir={cache}", *output, *overrides))
    assert "\n" not in caught.value.message
    assert "\n" not in caught.value.hint
    for word in said:
        assert word in str(caught.value)
    assert not list(cache.glob("*")), "nothing may be trained before a mistake that can be known is named"


UNREADABLE = [  # refused before anything is composed, or because it cannot be; some by Hydra in words of its own
    (["solver=pama", "solver=linear"], ["solver is given twice", "solver=pama", "solver=linear"]),
    (["training.steps=3", "seed=1", "training.steps=5"], ["training.steps=3", "training.steps=5"]),
    (["training.steps=3", "++training.steps=3"], ["training.steps is given twice"]),
    (["objectives=[helpful]", "objectives=[concise]"], ["objectives is given twice"]),
    (["objectives.helpful.weight=1", "objectives.helpful={weight:2}"], ["objectives.helpful.weight is given twice"]),
    (["solver.weights=[1,2]", "solver={weights:[1,3]}"], ["solver.weights is given twice"]),
    (["hydra/launcher=ray", "hydra/launcher=processes"], ["hydra/launcher is given twice"]),
    (["model.config={hidden_size:8,hidden_size:16}"], ["hidden_size twice"]),
    (
        ["model.config={hidden_size:8}", "model.config.ffn_dim=8", "model.config={ffn_dim:9}"],
        ["model.config.ffn_dim is"],
    ),
    (["+training.steps=3"], ["there already", "training.steps=3"]),
    (["+solver=linear"], ["there already", "Write solver=linear"]),
    (["model.config={vocab_size:3}"], ["model.config.vocab_size", "ffn_dim"]),
    (["data.world=[a,b]"], ["data.world=[a,b]", "group of settings"]),
    (["~objectives=1"], ["objectives=1", "helpful"]),
    (["hydra=null"], ["hydra=null is no option's name"]),
    (["hydra/launcher=null"], ["hydra/launcher=null is no option's name"]),
    (["hydra/launcher=[ray]"], ["hydra/launcher=[ray] is no option's name"]),
    (["~objectives"], ["deletes no option that is chosen", "objectives=["]),
    (["~solver=linear"], ["~solver=linear", "It is pama"]),
    (["~solver=[a]"], ["solver=[a]", "pama"]),
    (["~training={a:1}"], ["~training", "another value"]),
    (["~seed=5"], ["~seed=5", "another value"]),
    (["solver@model=pama"], ["no group 'solver@model'"]),
    (["hydra/nothing=a"], ["no group 'hydra/nothing'", "hydra/"]),
    (["training.steps=1,2"], ["training.steps=1,2", "--multirun", "key=[a,b]"]),
    (["solver.granularity=glob(*)"], ["glob(*)", "--multirun"]),
    (["seed=range(0)"], ["range(0)"]),
    (["hydra.mode=MULTIRUN", "seed=1,2"], ["hydra.mode=MULTIRUN asks for a sweep", "One configuration"]),
]


@pytest.mark.parametrize(("overrides", "said"), UNREADABLE, ids=[" ".join(m[0]) for m in UNREADABLE])
def test_a_command_line_that_cannot_be_composed_is_explained(overrides, said):
    with pytest.raises(UserError) as caught:
        configure("model=micro", *overrides)
    lines = [caught.value.message, caught.value.hint]
    assert all(0 < len(line) <= 300 and "\n" not in line for line in lines)
    for word in said:
        assert word in str(caught.value)
    for word in ("append", "merging", "Could not", "requires --multirun", "must be a string"):
        assert word not in str(caught.value)


def test_values_of_a_sweep_are_no_repetition_and_a_sweeps_key_given_twice_is_one():
    check_command_line(["seed=0,1", "solver=pama,linear", "training.steps=3"], multirun=True)
    check_command_line(["~objectives.helpful", "objectives=[helpful,concise]"])
    with pytest.raises(UserError, match="seed is given twice: seed=0,1 and seed=2"):
        check_command_line(["seed=0,1", "seed=2"], multirun=True)


def test_a_folder_of_options_that_is_none_is_named():
    with pytest.raises(UserError, match="--config-dir=/nowhere/at/all"):
        check_command_line(["seed=0"], "/nowhere/at/all")


def test_no_word_of_a_mistake_is_longer_than_a_line_bears():
    said = UserError(f"evaluate.run=/{'y' * 5000}/end is none.", "x" * 219)
    assert len(said.message) < 220
    assert said.message.startswith("evaluate.run=/yyy")
    assert said.message.endswith("y/end is none.")
    assert said.hint == "x" * 219


@pytest.mark.slow("starts a process for each mistake")
def test_on_the_command_line_it_is_two_lines_and_status_2(tmp_path):
    for overrides in (["objectives=[helpfull,concise]"], ["+training.step=3"], ["training.mini_batch_size=5"]):
        done = run_command(*FAST, *overrides, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr + done.stdout
        assert len(done.stderr.strip().splitlines()) == 2, done.stderr


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[float('nan')] * len(completions)", "NaN"),
        ("[float('inf')] * len(completions)", "inf"),
        ("[1.0] * (len(completions) - 1)", "15"),
    ],
)
def test_a_scorer_that_misbehaves_is_named_and_the_run_can_go_on(body, said, tmp_path, shared_cache, monkeypatch):
    module = f"shaky_{said.lower()}"
    (tmp_path / f"{module}.py").write_text(f"def score(prompts, completions, **columns):\n    return {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    where = "objectives.concise.scorers.factworld"
    custom = [f"~{where}.program", f"+{where}.function='{module}:score'"]
    with pytest.raises(UserError, match="concise") as caught:
        run_here("reward=gold", *custom, output=tmp_path / "run", cache=shared_cache)
    assert said.lower() in str(caught.value).lower()


OWN_CODE = {  # at import, or where the object is made
    "exits": ("import sys; sys.exit(0)", "raised SystemExit: 0|SystemExit: 0"),
    "raises": ("raise KeyError('x' * 900)", "KeyError"),
    "broken": ("def f(:", "SyntaxError"),
    "made": ("class Thing:\n    def __init__(self, **settings): raise ValueError('no')", "ValueError: no"),
    "left": ("class Thing:\n    def __init__(self, **settings): raise SystemExit", "SystemExit"),
}


@pytest.mark.parametrize("where", ["solver", "advantage", "stage", "objectives.concise.scorers.factworld"])
@pytest.mark.parametrize("name", OWN_CODE)
def test_own_code_that_raises_or_exits_is_told_whatever_it_is_for(name, where, tmp_path, monkeypatch):
    body, said = OWN_CODE[name]
    (tmp_path / f"own_{name}.py").write_text(body + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    target = f"{where}._target_=own_{name}.Thing"
    words = [f"~{where}.program", f"+{target}"] if "." in where else [target]

    def begin():
        config = configure("model=micro", "reward=gold", "output=unused", "cache_dir=unused", *words)
        execute.load_stage(config)
        resolve(config).objectives[1].build()

    with pytest.raises(UserError) as caught:
        begin()
    lines = [caught.value.message, caught.value.hint]
    assert all(0 < len(line) <= 300 and "\n" not in line for line in lines)
    assert where in caught.value.message
    if where != "stage" or name in ("exits", "raises", "broken"):
        assert any(each in caught.value.message for each in said.split("|"))


def test_a_damaged_cache_is_named_with_what_to_do(tmp_path):
    cache = tmp_path / "cache"
    run_here("stage=sft", "reward=gold", output=tmp_path / "one", cache=cache)
    weights = next(cache.glob("sft-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged") as caught:
        run_here("reward=gold", output=tmp_path / "two", cache=cache)
    assert str(weights.parent) in caught.value.hint


@pytest.mark.slow("two processes")
def test_two_processes_do_not_share_a_run_folder(tmp_path):
    from pama_exp.tracking.record import RunRecord

    with RunRecord.open(tmp_path / "run").lock():
        done = run_command(*FAST, f"output={tmp_path / 'run'}", f"cache_dir={tmp_path / 'cache'}", cwd=tmp_path)
    assert done.returncode == 2, done.stderr


@pytest.mark.slow("starts the same process twice")
def test_a_learning_rate_that_breaks_the_policy_says_the_same_each_time_and_keeps_nothing_of_it(tmp_path, shared_cache):
    arguments = [*FAST, "reward=gold", "training.learning_rate=1e6", f"output={tmp_path / 'run'}"]
    for _ in range(2):
        done = run_command(*arguments, f"cache_dir={shared_cache}", cwd=tmp_path)
        assert done.returncode == 2
        first, second = done.stderr.strip().splitlines()
        assert first.startswith("Step 1: ")
        assert "nan" in first
        assert "training.learning_rate=1e+06" in second
        assert not list((tmp_path / "run").glob("checkpoints/*"))
        assert '"step": 1' not in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_supervised_fit_that_breaks_its_model_puts_nothing_in_the_cache(rate, tmp_path):
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=r"(?s)^SFT policy, (after )?step \d.*learning_rate="):
        run_here("stage=sft", "reward=gold", f"sft.learning_rate={rate}", output=tmp_path / "run", cache=cache)
    assert not [path for path in cache.iterdir() if not path.name.endswith(".lock")]
