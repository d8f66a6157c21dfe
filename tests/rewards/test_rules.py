import pytest

import tiny
from pama_exp.errors import UserError
from pama_exp.rewards.rules import Brevity, FleschReadingEase, Length, Pattern, syllables
from pama_exp.rewards.scorer import Scorer

TEXTS = ["", "one two three", "x" * 100, "word " * 300]


def scores(scorer, texts=TEXTS):
    assert isinstance(scorer, Scorer)
    return scorer.score(tiny.prompts(), texts).tolist()


def test_length_is_the_papers_formula_at_its_two_settings():
    # GPT-2 run: clip(l/140, 70/140, 210/140); the other two: clip(l/140, 0, 4096/140).
    assert scores(Length(140.0, 70.0, 210.0)) == pytest.approx([0.5, 0.5, 100 / 140, 1.5])
    assert scores(Length(140.0, 0.0, 4096.0)) == pytest.approx([0, 13 / 140, 100 / 140, 1500 / 140])
    assert scores(Length(1.0, 0.0, 10.0, unit="words")) == [0, 3, 1, 10]


def test_brevity_falls_from_one_to_zero_at_the_limit():
    assert scores(Brevity(200.0, unit="words")) == pytest.approx([1, 1 - 3 / 200, 1 - 1 / 200, 0])
    assert scores(Brevity(50.0, unit="characters")) == pytest.approx([1, 1 - 13 / 50, 0, 0])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("The cat sat on the mat.", 116.145),  # 6 words, 1 sentence, 6 syllables
        ("This sentence, taken as a reading passage, is unusual.", 206.835 - 1.015 * 9 - 84.6 * 15 / 9),
        ("Go. Stop! Why?", 206.835 - 1.015 - 84.6),  # three sentences of one syllable each
    ],
)
def test_reading_ease_is_fleschs_formula_on_texts_counted_by_hand(text, value):
    assert scores(FleschReadingEase(-200.0, 200.0), [text]) == pytest.approx([value], abs=1e-3)


def test_reading_ease_is_clipped_and_knows_texts_without_words():
    assert scores(FleschReadingEase(), ["The cat sat.", "incomprehensibilities", "", "123 !"]) == [100, 0, 0, 0]


@pytest.mark.parametrize(
    ("word", "count"),
    [("cat", 1), ("make", 1), ("table", 2), ("reading", 2), ("unusual", 3), ("the", 1), ("syllable", 3), ("tree", 1)],
)
def test_syllables(word, count):
    assert syllables(word) == count


def test_patterns_are_found_forbidden_or_whole():
    texts = ["- a point", "no list", "first\n* second", "42"]
    assert scores(Pattern(r"^\s*[-*] "), texts) == [1, 0, 1, 0]
    assert scores(Pattern(r"^\s*[-*] ", forbidden=True), texts) == [0, 1, 0, 1]
    assert scores(Pattern(r"\d+", whole=True), texts) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Length(unit="letters"), "letters"),
        (lambda: Length(scale=0.0), "scale=0"),
        (lambda: Length(low=5.0, high=5.0), "low=5"),
        (lambda: Brevity(limit=-1.0), "limit=-1"),
        (lambda: FleschReadingEase(3.0, 1.0), "low=3"),
        (lambda: Pattern("(unclosed"), "unclosed"),
    ],
)
def test_settings_that_make_no_sense_are_named(make, said):
    with pytest.raises(UserError, match=said):
        make()


@pytest.mark.parametrize("whole", [False, True])
def test_a_pattern_that_would_take_for_ever_is_refused(whole):
    with pytest.raises(UserError, match=r"\(a\|aa\)\+\$' took more than 2 seconds"):
        scores(Pattern(r"(a|aa)+$", whole=whole), ["fine", "a" * 200 + "b"])
