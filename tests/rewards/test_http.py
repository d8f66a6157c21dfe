"""The scorer against a real server on loopback: slow, failing for a while, answering garbage, dead."""

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
from reward_server import Server, lengths, slow

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
    assert 1.0 <= waited(busy(status, "1")) < 10.0


def test_a_server_is_left_alone_until_the_date_it_names():
    # The form has whole seconds: of the two at least one is left.
    soon = waited(busy(503, lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)))
    assert soon >= 0.5
    for past in ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 -0000"):
        assert waited(busy(503, past), backoff=0.2) >= 0.2


@pytest.mark.parametrize("asked", ["3600", format_datetime(datetime(2999, 1, 1, tzinfo=UTC), usegmt=True)])
def test_no_longer_than_the_timeout(asked):
    assert 0.5 <= waited(busy(429, asked), timeout=0.5) < 10.0


@pytest.mark.parametrize("asked", ["", "soon", "-3", "1.5", "²"])
def test_what_cannot_be_read_leaves_the_back_off_as_it_is(asked):
    assert 0.2 <= waited(busy(503, asked), backoff=0.2) < 1.2


def test_the_back_off_is_the_least():
    assert waited(busy(503, "0"), backoff=0.3) >= 0.3


def test_a_slow_answer_is_waited_for_up_to_the_timeout():
    with Server(lambda _, request: slow(0.3, request)).running() as server:
        assert HttpScorer(server.url, timeout=20.0).score(tiny.prompts(), RESPONSES).tolist() == EXPECTED
        with pytest.raises(UserError, match=r"failed 2 times \(ReadTimeout"):
            HttpScorer(server.url, timeout=0.05, retries=1, backoff=0.01).score(tiny.prompts(), RESPONSES)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"<html>oops</html>"), "oops"),
        ((200, b'{"score": [1]}'), "score"),
        ((200, b'{"scores": [1, 2, "many", 4]}'), "many"),
        ((200, b'{"scores": [1, 2]}'), "2 scores for 4"),
        ((404, b"no such page"), "404"),
    ],
)
def test_garbage_is_named_and_not_asked_for_again(answer, said):
    with Server(lambda *_: answer).running() as server, pytest.raises(UserError, match=said) as caught:
        HttpScorer(server.url).score(tiny.prompts(), RESPONSES)
    assert "scores" in caught.value.hint
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


@pytest.mark.parametrize("settings", [{"url": None}, {"url": "localhost:80"}, {"batch_size": 0}, {"timeout": 0.0}])
def test_settings_that_make_no_sense_are_named(settings):
    with pytest.raises(UserError, match=str(next(iter(settings.values())))):
        HttpScorer(**{"url": "http://127.0.0.1:1/", **settings})
