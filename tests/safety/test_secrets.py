"""Planted secrets: refused before anything is written, and in nothing that a run writes or prints."""

import json
import os

import pytest

from commands import FAST, composed, run_command, run_here
from pama_exp.cli import command_line
from pama_exp.config import schema
from pama_exp.errors import UserError
from pama_exp.safety.secrets import is_secret_name, redact, redacted, secrets_in
from pama_exp.tracking.record import RunRecord
from reward_server import Server, lengths

PLANTED = "planted5ecret"
SCORER = "objectives.http.scorers.any"


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{PLANTED}@host/x",
        f"http://{PLANTED}@host",
        f"see https://user:{PLANTED}/x?y@host:80/path, please",
        f"postgres://user:{PLANTED}@host/base",
        f"user:{PLANTED}@host.org",
        f"http://host/x?api_key={PLANTED}&a=1",
        f"http://host/x?a=1&sig={PLANTED}",
        f"http://host/x?%74oken={PLANTED}",
        f"http://host/x#access_token={PLANTED}",
        f"objectives.x.token={PLANTED}",
        f"+a.b.headers={{Authorization: Bearer {PLANTED}, X: 1}}",
        f"+a.b.headers={{X-Api-Key: {PLANTED}}}",
        f"{{'password': '{PLANTED}'}}",
        f'{{"clientSecret": "{PLANTED}"}}',
        f"Authorization: Bearer {PLANTED}",
        f"WANDB_API_KEY={PLANTED} python run.py",
        f"hf_{PLANTED}{PLANTED}",
        f"folder/hf_{PLANTED.upper()}/x.jsonl",
        f"sk-{PLANTED}{PLANTED}",
        f"ghp_{PLANTED}{PLANTED}",
        f"wandb_v1_{PLANTED}{PLANTED}",
    ],
)
def test_a_secret_is_hidden_whatever_it_stands_in(text):
    shown = redact(text)
    assert PLANTED not in shown
    assert PLANTED.upper() not in shown
    assert "***" in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/score",
        "http://[::1]:8000/score?model=a&top_k=5",
        "http://host:80/@someone",
        "The url is http://host:8000.",
        "training.micro_batch_tokens=512 rollout.sampling.max_new_tokens=5 model.tokenizer=bytes",
        "objectives.x.scorers.any.pad_token=<pad>",
        "objectives.http.scorers.any.token_variable=REWARD_TOKEN",
        "data.prefix_tokens=[2,7]",
        "model.id=hf-internal-testing/tiny-random-gpt2",
        "models/hf_small/weights",
        "model.revision=0123456789abcdef0123456789abcdef01234567",
        "a bearer token is read",
        "runs/tiny-helpful+concise-pama-s0-1a2b3c4d",
        "token=null",
        "write to me@example.org",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text):
    assert redact(text) == text


def test_values_of_variables_with_a_secrets_name_are_hidden(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_PASSWORD", PLANTED)
    assert redact(f"it said '{PLANTED}'") == "it said '***'"
    assert redact(f"{PLANTED}s and more") == f"{PLANTED}s and more"
    assert list(secrets_in({"logger": {"tags": ["x", PLANTED]}})) == ["logger.tags=***"]


@pytest.mark.parametrize(
    "name", ["token", "hf_token", "X-Auth-Token", "apiKey", "DB_PASSWORD", "Authorization", "secret"]
)
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["tokens", "passes_per_token", "pad_token", "eos_token", "token_variable", "key", "tokenizer", "weight"]
)
def test_names_of_settings(name):
    assert not is_secret_name(name)


def test_nested_values_are_redacted_and_keep_their_form():
    given = {"a": {"token": PLANTED, "pad_token": "<pad>", "n": 1}, "b": [f"http://u:{PLANTED}@h", None], "token": None}
    assert redacted(given) == {
        "a": {"token": "***", "pad_token": "<pad>", "n": 1},
        "b": ["http://***@h", None],
        "token": None,
    }


def test_errors_and_records_hold_none(tmp_path):
    assert PLANTED not in repr(UserError(f"http://u:{PLANTED}@h", f"token={PLANTED}"))
    record = RunRecord.open(tmp_path)
    record.write_config({"a": {"token": PLANTED}})
    record.write_environment(["run.py", f"a.token={PLANTED}"])
    record.write_status("failed", 0, f"http://u:{PLANTED}@h")
    assert all(PLANTED.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    assert json.loads((tmp_path / "environment.json").read_text())["command"] == ["run.py", "a.token=***"]


# How a secret may come into a command; the last two by way of the environment.
PLANTS = [
    f"{SCORER}.url=http://user:{PLANTED}@127.0.0.1:1/",
    f"{SCORER}.url=http://127.0.0.1:1/?api_key={PLANTED}",
    f"'{SCORER}.url=\"http://127.0.0.1:1/?a=1&token={PLANTED}\"'",
    f"+{SCORER}.token={PLANTED}",
    f"+{SCORER}.headers={{Authorization: {PLANTED}}}",
    f"+{SCORER}.headers.X-Api-Key={PLANTED}",
    f"+logger.api_key={PLANTED}",
    f"model.id=hf_{PLANTED}{PLANTED}",
    f"data.path=https://user:{PLANTED}@host/x.jsonl",
    f"logger.tags=[a,hf_{PLANTED}{PLANTED}]",
    f"{SCORER}.token_variable={PLANTED}",
    f"+{SCORER}.token=${{oc.env:PLANTED_TOKEN}}",
    "logger.project=${oc.env:PLANTED_TOKEN}",
]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_secret_among_the_settings_ends_the_command_before_anything_is_written(plant, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTED_TOKEN", PLANTED)
    settings = ["objectives=[helpful,http]", "reward=gold", plant.strip("'")]
    with pytest.raises(UserError) as caught:
        run_here(*settings, output=tmp_path / "run", cache=tmp_path)
    assert PLANTED not in str(caught.value)
    assert "variable" in caught.value.hint
    assert max(map(len, str(caught.value).splitlines())) <= 300
    assert not (tmp_path / "run").exists()


def test_one_in_a_file_of_settings_is_found_too():
    config = composed("objectives=[helpful,http]")
    config.objectives.http.scorers["any"].url = f"http://u:{PLANTED}@h/"  # as a yaml of one's own would
    with pytest.raises(UserError, match=r"http\.scorers\.any\.url=http://\*\*\*@h/"):
        schema.typed(config)


@pytest.mark.parametrize("plant", [PLANTS[0], PLANTS[3]])
def test_nor_in_a_sweep(plant):
    with pytest.raises(UserError, match="in plain") as caught:
        command_line.check_command_line([f"{plant},other", "seed=0,1"], multirun=True)
    assert PLANTED not in str(caught.value)


@pytest.mark.slow("whole runs in processes")
def test_a_command_with_a_secret_says_two_lines_and_one_with_a_token_keeps_it_nowhere(tmp_path, shared_cache):
    where = [
        *FAST,
        "objectives=[helpful,http]",
        "reward=gold",
        f"output={tmp_path / 'run'}",
        f"cache_dir={shared_cache}",
    ]
    refused = run_command(*where, PLANTS[0], cwd=tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 2
    assert PLANTED not in refused.stdout + refused.stderr
    assert list(tmp_path.iterdir()) == []
    with Server(lambda _, request: lengths(request)).running() as server:
        done = run_command(
            *where, f"{SCORER}.url={server.url}", f"{SCORER}.token_variable=MINE", cwd=tmp_path, MINE=PLANTED
        )
    assert done.returncode == 0
    assert server.headers[0]["Authorization"] == f"Bearer {PLANTED}"
    assert PLANTED not in done.stdout + done.stderr
    found = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]
    assert found == []
    assert os.listdir(tmp_path) == ["run"]
