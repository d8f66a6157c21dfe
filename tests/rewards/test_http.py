"""The scorer against a real server on loopback: slow, failing for a while, answering garbage, dead."""

import asyncio
import gzip
import json
import re
import time
import zlib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from threading import Barrier

import pytest

import tiny
from pama_exp.errors import UserError
from pama_exp.rewards.http import HttpScorer
from pama_exp.rewards.objective import Objective, score_all
from pama_exp.rewards.scorer import checked_score
from reward_server import Server, endless, lengths, named, slow, trickle

RESPONSES = ["a", "b b", "c c c", "d d d d"]
EXPECTED = [-1.0, -3.0, -5.0, -7.0]


def test_scores_come_back_in_order_with_prompts_and_columns_sent_in_batches():
    with Server(lambda _, request: lengths(request)).running() as server:
        assert HttpScorer(server.url, batch_size=3).score(tiny.prompts(), RESPONSES).tolist() == EXPECTED
    assert [len(request["completions"]) for request in server.requests] == [3, 1]
    assert server.requests[0]["prompts"] == list(tiny.prompts().texts)[:3]
    assert server.requests[1]["columns"] == {"row": [3]}


def test_servers_are_asked_at_the_same_time():
    both = Barrier(2)  # each answers only once the other has been asked as well

    def meet(_, request):
        both.wait(timeout=20)
        return lengths(request)

    with Server(meet).running() as one, Server(meet).running() as other:
        objectives = [Objective(name, HttpScorer(server.url, retries=0)) for name, server in (("a", one), ("b", other))]
        scores = score_all(objectives, tiny.prompts(), RESPONSES)
    assert scores.tolist() == [EXPECTED, EXPECTED]


def test_columns_that_json_has_no_form_for_are_sent_as_text():
    prompts = replace(tiny.prompts(), columns={"day": [date(2025, 8, n) for n in (1, 2, 3, 4)]})
    with Server(lambda _, request: lengths(request)).running() as server:
        assert HttpScorer(server.url).score(prompts, RESPONSES).tolist() == EXPECTED
    assert server.requests[0]["columns"] == {"day": ["2025-08-01", "2025-08-02", "2025-08-03", "2025-08-04"]}
    assert server.headers[0]["Content-Type"] == "application/json"


def test_a_server_that_fails_twice_is_asked_a_third_time():
    def behave(number, request):
        return {1: (503, b"starting"), 2: None}.get(number, lengths(request))

    with Server(behave).running() as server:
        assert HttpScorer(server.url, backoff=0.01).score(tiny.prompts(), RESPONSES).tolist() == EXPECTED
    assert len(server.requests) == 3


def busy(status, retry_after):
    """A server that asks to be left alone, and answers the second time."""

    def behave(number, request):
        asked = retry_after() if callable(retry_after) else retry_after
        return (status, b"busy", {"Retry-After": asked}) if number == 1 else lengths(request)

    return Server(behave)


def waited(server, **settings):
    with server.running():
        assert HttpScorer(server.url, **{"backoff": 0.01, **settings}).score(tiny.prompts(), RESPONSES).tolist() == (
            EXPECTED
        )
    assert len(server.times) == 2
    return server.times[1] - server.times[0]


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_is_left_alone_for_the_seconds_it_asks_for(status):
    assert waited(busy(status, "1")) >= 1.0


def test_a_server_is_left_alone_until_the_date_it_names():
    # The form has whole seconds: of the two at least one is left.
    soon = waited(busy(503, lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)))
    assert soon >= 0.5
    for past in ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 -0000"):
        assert waited(busy(503, past), backoff=0.2) >= 0.2


@pytest.mark.parametrize("asked", ["3600", format_datetime(datetime(2999, 1, 1, tzinfo=UTC), usegmt=True)])
def test_a_wait_beyond_the_timeout_is_not_begun(asked):
    start = time.monotonic()
    with pytest.raises(UserError, match="too late"):
        waited(busy(429, asked), timeout=200.0)
    assert time.monotonic() - start < 100.0


@pytest.mark.parametrize("asked", ["", "soon", "-3", "1.5", "²"])
def test_what_cannot_be_read_leaves_the_back_off_as_it_is(asked, monkeypatch):
    pauses, sleep = [], asyncio.sleep

    async def recorded(pause):
        pauses.append(pause)
        await sleep(pause)

    monkeypatch.setattr(asyncio, "sleep", recorded)
    assert waited(busy(503, asked), backoff=0.2) >= 0.2
    assert [pause for pause in pauses if pause > 0] == [0.2]


def test_the_back_off_is_the_least():
    assert waited(busy(503, "0"), backoff=0.3) >= 0.3


def test_a_slow_answer_is_waited_for():
    with Server(lambda _, request: slow(0.3, request)).running() as server:
        assert HttpScorer(server.url, timeout=20.0).score(tiny.prompts(), RESPONSES).tolist() == EXPECTED


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "behave",
    [
        lambda _, request: slow(1.0, request),
        lambda *_: trickle(HEAD + b'{"scores": [1, 2, 3, 4]}' + b" " * 200),
        lambda *_: trickle(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200),
        lambda *_: (503, b"busy", {"Retry-After": "0"}),
        lambda *_: None,
    ],
    ids=["silent", "body byte by byte", "headers byte by byte", "always busy", "hangs up"],
)
def test_the_timeout_is_for_all_of_a_request_with_its_retries(behave):
    with Server(behave).running() as server:
        start = time.monotonic()
        with pytest.raises(UserError, match=r"within timeout=0\.5 s") as caught:
            HttpScorer(server.url, timeout=0.5, retries=10_000, backoff=0.05).score(tiny.prompts(), RESPONSES)
        assert time.monotonic() - start < 8.0  # a server that answers byte by byte would take ten
    assert server.url in caught.value.message


BOMB = gzip.compress(b'{"scores": [1, 2, 3, 4]}' + b" " * 2**22)


@pytest.mark.parametrize(
    "answer",
    [(200, b" " * (2**20 + 1)), (200, BOMB, {"Content-Encoding": "gzip"}), endless],
    ids=["long", "gzip", "endless"],
)
def test_no_more_is_read_than_the_limit_and_not_asked_for_again(answer):
    with (
        Server(lambda *_: answer).running() as server,
        pytest.raises(UserError, match="more than max_answer_mib=1 MiB"),
    ):
        HttpScorer(server.url, max_answer_mib=1.0, timeout=20.0).score(tiny.prompts(), RESPONSES)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_answer_within_the_limit_is_read(encoding, pack):
    def behave(_, request):
        return 200, pack(lengths(request)[1]), {"Content-Encoding": encoding}

    with Server(behave).running() as server:
        assert HttpScorer(server.url).score(tiny.prompts(), RESPONSES).tolist() == EXPECTED


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"<html>oops</html>"), "oops"),
        ((200, b""), "''"),
        ((200, b'{"score": [1]}'), "score"),
        ((200, b"[1, 2, 3, 4]"), r"\[1, 2"),
        ((200, b'{"scores": "1234"}'), "1234"),
        ((200, b'{"scores": 4}'), "4"),
        ((200, b'{"scores": null}'), "null"),
        ((200, b'{"scores": {"1": 0, "2": 0, "3": 0, "4": 0}}'), "several scores, by name"),
        ((200, b'{"scores": [1, 2, "many", 4]}'), "many.* as score 2"),
        ((200, b'{"scores": [1, "2", 3, 4]}'), "2.* as score 1"),
        ((200, b'{"scores": [1, 2, 3, "NaN"]}'), "NaN.* as score 3"),
        ((200, b'{"scores": [true, 2, 3, 4]}'), "true' as score 0"),
        ((200, b'{"scores": [1, 2, null, 4]}'), "null' as score 2"),
        ((200, b'{"scores": [[1], 2, 3, 4]}'), "as score 0"),
        ((200, b'{"scores": [1, 2]}'), "2 scores for 4"),
        ((200, b'{"scores": []}'), "0 scores for 4"),
        ((200, b"[" * 100_000), r"\[\["),
        ((200, b'{"scores": [1, 2, 3, ' + b"9" * 5000 + b"]}"), "answered"),
        ((200, b"\xff\xfe\x00\x1b[2J"), r"\\x1b\[2J"),
        ((200, b"zip", {"Content-Encoding": "gzip"}), "broken gzip"),
        ((200, gzip.compress(b"{}")[:-4], {"Content-Encoding": "gzip"}), "broken gzip"),
        ((200, b"?", {"Content-Encoding": "br"}), "encoding 'br'"),
        ((404, b"no such page"), "404: 'no such page'"),
        ((401, b""), "401"),
        ((204, b""), "204"),
    ],
)
def test_garbage_is_named_and_not_asked_for_again(answer, said):
    with Server(lambda *_: answer).running() as server, pytest.raises(UserError, match=said) as caught:
        HttpScorer(server.url).score(tiny.prompts(), RESPONSES)
    assert "scores" in caught.value.hint or "score=" in caught.value.hint
    assert server.url in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()
    assert len(server.requests) == 1


def test_a_score_that_is_not_finite_names_the_sample():
    with Server(lambda *_: (200, b'{"scores": [1, NaN, 2, 3]}')).running() as server:
        scorer = HttpScorer(server.url)
        with pytest.raises(UserError, match="response 1: 'b b'"):
            checked_score("mine", scorer, tiny.prompts(), RESPONSES)


def test_a_dead_server_is_named_with_what_to_do():
    with Server(lambda _, request: lengths(request)).running() as server:
        url = server.url
    with pytest.raises(UserError, match=url) as caught:
        HttpScorer(url, retries=1, backoff=0.01).score(tiny.prompts(), RESPONSES)
    assert "same command" in caught.value.hint


def test_the_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("MY_REWARD_TOKEN", "sesame")
    with Server(lambda _, request: lengths(request)).running() as server:
        HttpScorer(server.url, token_variable="MY_REWARD_TOKEN").score(tiny.prompts(), RESPONSES)
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    monkeypatch.delenv("MY_REWARD_TOKEN")
    with pytest.raises(UserError, match="MY_REWARD_TOKEN"):
        HttpScorer(server.url, token_variable="MY_REWARD_TOKEN")


def test_a_redirect_takes_the_token_nowhere(monkeypatch):
    monkeypatch.setenv("MY_REWARD_TOKEN", "sesame-open-1")
    with Server(lambda _, request: lengths(request)).running() as other:
        moved = (307, b"", {"Location": other.url})
        with Server(lambda *_: moved).running() as server, pytest.raises(UserError, match="307, a redirect"):
            HttpScorer(server.url, token_variable="MY_REWARD_TOKEN").score(tiny.prompts(), RESPONSES)
    assert other.requests == []


def test_a_server_that_repeats_the_token_does_not_put_it_into_the_message(monkeypatch):
    monkeypatch.setenv("ODD_NAME", "sesame")
    answer = (403, b"x" * 76 + b"sesame is not welcome")
    with Server(lambda *_: answer).running() as server, pytest.raises(UserError) as caught:
        HttpScorer(server.url, token_variable="ODD_NAME").score(tiny.prompts(), RESPONSES)
    assert "sesa" not in str(caught.value)


@pytest.mark.parametrize("name", ["hunter2-is-my-token", "", "lower_case_9", "A=B", "A\0B"])
def test_a_token_in_the_place_of_its_variable_is_not_shown(name):
    with pytest.raises(UserError, match="token_variable names no") as caught:
        HttpScorer("http://127.0.0.1:1/", token_variable=name)
    assert name == "" or name not in str(caught.value)


def test_a_token_that_no_header_can_hold_is_refused_unseen(monkeypatch):
    monkeypatch.setenv("MY_REWARD_TOKEN", "ses\name")
    with pytest.raises(UserError, match="MY_REWARD_TOKEN cannot be sent") as caught:
        HttpScorer("http://127.0.0.1:1/", token_variable="MY_REWARD_TOKEN")
    assert "name" not in str(caught.value).replace("variable", "")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:planted@127.0.0.1:1/",
        "http://planted@127.0.0.1:1/",
        "http://user:planted/5@127.0.0.1:1/",
        "HTTP://user:planted@127.0.0.1:1/",
        "user:planted@127.0.0.1:1",
        "http://127.0.0.1:1/?api_key=planted",
        "http://127.0.0.1:1/?a=1&X-Amz-Signature=planted",
        "http://127.0.0.1:1/?to%6ben=planted",
        "http://127.0.0.1:1/#access_token=planted",
    ],
)
def test_a_url_with_a_secret_is_refused_without_showing_it(url):
    with pytest.raises(UserError, match="in plain") as caught:
        HttpScorer(url)
    assert "planted" not in str(caught.value)
    assert "token_variable" in caught.value.hint


def named_objectives(url, *names, **settings):
    return [Objective(name, HttpScorer(url, score=name, **settings)) for name in names]


def test_objectives_of_one_server_cost_one_request_for_a_batch():
    with Server(lambda _, request: named(request)).running() as server:
        objectives = named_objectives(server.url, "short", "helpful", "safe")
        scores = score_all(objectives, tiny.prompts(), RESPONSES)
        assert scores.tolist() == [EXPECTED, [1.0] * 4, [2.0] * 4]
        assert len(server.requests) == 1
        score_all(objectives, tiny.prompts(), RESPONSES[::-1])
        assert len(server.requests) == 2
        score_all(objectives, tiny.prompts(), RESPONSES[::-1])  # a step of its own asks anew
        assert len(server.requests) == 3


def test_they_share_each_of_several_batches():
    with Server(lambda _, request: named(request)).running() as server:
        scores = score_all(named_objectives(server.url, "safe", "short", batch_size=3), tiny.prompts(), RESPONSES)
    assert scores.tolist() == [[2.0] * 4, EXPECTED]
    assert [len(request["completions"]) for request in server.requests] == [3, 1]


def test_they_share_its_failure_too():
    with (
        Server(lambda *_: (404, b"gone")).running() as server,
        pytest.raises(UserError, match="404"),
    ):
        score_all(named_objectives(server.url, "helpful", "safe", "short"), tiny.prompts(), RESPONSES)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "name", "said", "hint"),
    [
        ({"helpful": [0] * 4, "safe": [0] * 4}, None, "no score is chosen", "score=NAME. It offers: helpful, safe"),
        ({"helpful": [0] * 4, "safe": [0] * 4}, "harmless", "no score named 'harmless'", "offers: helpful, safe"),
        ({}, "safe", "no score named 'safe'", "offers: none"),
        ({f"n{i}": [0] * 4 for i in range(1000)}, "safe", "no score named", "and 992 more"),
        ([0] * 4, "safe", "one list of scores", "Leave score out"),
        ({"safe": "1234"}, "safe", "1234", "scores"),
        ({"safe": [1, 2]}, "safe", "2 scores for 4", "scores"),
        ({"safe": [True, 0, 0, 0]}, "safe", "as score 0", "scores"),
    ],
)
def test_scores_by_name_and_their_mistakes(answer, name, said, hint):
    reply = (200, json.dumps({"scores": answer}).encode())
    with Server(lambda *_: reply).running() as server, pytest.raises(UserError, match=said) as caught:
        HttpScorer(server.url, score=name).score(tiny.prompts(), RESPONSES)
    assert hint in caught.value.hint
    assert max(map(len, str(caught.value).splitlines())) < 300


@pytest.mark.parametrize(
    "settings",
    [
        {"url": None},
        {"url": "localhost:80"},
        {"url": "http://"},
        {"url": "http://host:99999/"},
        {"url": "http://[::1/"},
        {"url": "http://a\nb/"},
        {"batch_size": 0},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"retries": -1},
        {"backoff": -1.0},
        {"max_answer_mib": 0.0},
    ],
)
def test_settings_that_make_no_sense_are_named(settings):
    with pytest.raises(UserError, match=re.escape(str(next(iter(settings.values()))))):
        HttpScorer(**{"url": "http://127.0.0.1:1/", **settings})
