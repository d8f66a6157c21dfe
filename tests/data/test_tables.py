import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from pama_exp.data import tables
from pama_exp.errors import UserError
from pama_exp.storage.files import sha256
from texts import write_jsonl

ROWS = [{"prompt": f"question {i}", "score": i} for i in range(5)]


def as_columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def written(folder, kind):
    path = folder / f"table.{kind}"
    if kind in ("jsonl", "jsonl.gz"):
        write_jsonl(path, ROWS)
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(as_columns(ROWS)), path)
    else:
        mark = {"csv": ",", "tsv": "\t"}[kind]
        path.write_text("\n".join([f"prompt{mark}score", *(f"{r['prompt']}{mark}{r['score']}" for r in ROWS)]))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "parquet", "csv", "tsv"])
def test_every_format_is_read_alike(kind, tmp_path):
    path = written(tmp_path, kind)
    assert tables.find(str(path), None, None, []) == [path]
    assert tables.read([path], tmp_path / "cache") == as_columns(ROWS)


def test_a_folder_is_read_whole_or_by_patterns(tmp_path):
    first = write_jsonl(tmp_path / "a" / "one.jsonl", ROWS[:2])
    second = write_jsonl(tmp_path / "b" / "two.jsonl", ROWS[2:])
    (tmp_path / "README.md").write_text("no table")
    assert tables.find(str(tmp_path), None, None, []) == [first, second]
    assert tables.find(str(tmp_path), None, None, ["b/*.jsonl"]) == [second]
    assert tables.read([first, second], tmp_path / "cache") == as_columns(ROWS)


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", ROWS)
    tables.read([path], tmp_path / "cache")
    write_jsonl(path, ROWS[:3])
    assert tables.read([path], tmp_path / "cache") == as_columns(ROWS[:3])


def test_conversations_keep_their_messages(tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    path = write_jsonl(tmp_path / "t.jsonl", [{"messages": messages}, {"messages": messages[:1]}])
    assert tables.read([path], tmp_path / "cache")["messages"] == [messages, messages[:1]]


def test_a_data_set_in_the_hubs_cache_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "datasets--owner--talk"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    path = write_jsonl(root / "snapshots" / ("0" * 40) / "data" / "train.jsonl", ROWS)
    found = tables.find(None, "owner/talk", None, ["data/*.jsonl"])
    assert found == [path]
    assert tables.read(found, tmp_path / "cache") == as_columns(ROWS)


def two_lines(caught):
    assert "\n" not in caught.value.message
    assert "\n" not in caught.value.hint
    return str(caught.value)


def test_offline_a_data_set_that_is_not_cached_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="data set Anthropic/hh-rlhf") as caught:
        tables.find(None, "Anthropic/hh-rlhf", None, [])
    said = two_lines(caught)
    assert str(tmp_path) in said
    assert "hf download Anthropic/hh-rlhf --repo-type dataset" in said


def test_what_cannot_be_found_is_named(tmp_path):
    for path, patterns, wanted in [
        (None, [], "neither data.path nor data.id"),
        (str(tmp_path / "gone.jsonl"), [], "gone.jsonl"),
        (str(tmp_path), [], "holds no table"),
    ]:
        with pytest.raises(UserError, match=wanted) as caught:
            tables.find(path, None, None, patterns)
        two_lines(caught)
    write_jsonl(tmp_path / "helpful-base" / "train.jsonl.gz", ROWS)
    with pytest.raises(UserError, match=r"harmless\*/\*.jsonl.gz") as caught:
        tables.find(str(tmp_path), None, None, ["helpful*/*.jsonl.gz", "harmless*/*.jsonl.gz"])
    assert "helpful-base/train.jsonl.gz" in two_lines(caught)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", b"{nope", "read as jsonl"),
        ("t.parquet", b"nope", "read as parquet"),
        ("t.csv", b'a,b\n"1,2\n3,4,5,6\n', "read as csv"),
        ("t.jsonl.gz", b"nope", "read as jsonl"),
        ("t.jsonl", b"", "holds no rows"),
        ("t.csv", b"prompt\n", "holds no rows"),
        ("t.docx", b"x", "no table"),
        ("t.csv", b"prompt,chosen,chosen\nq,a,b\n", "two columns 'chosen'"),
        ("t.tsv", b"a\tb\ta\n1\t2\t3\n", "two columns 'a'"),
        ("t.jsonl", b'{"prompt": "a", "prompt": "b"}\n', "read as jsonl"),
        ("t.jsonl", b"[" * 100_000 + b"\n", "line 1: it is nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        tables.read([path], tmp_path / "cache")
    assert str(path) in two_lines(caught)


def test_files_of_two_kinds_are_not_one_table(tmp_path):
    paths = [written(tmp_path, "jsonl"), written(tmp_path, "csv")]
    with pytest.raises(UserError, match=r"\.csv and \.jsonl") as caught:
        tables.read(paths, tmp_path / "cache")
    assert "data.files" in two_lines(caught)


def test_a_column_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(UserError, match="no such column") as caught:
        tables.column(as_columns(ROWS), "promt", "data.column")
    said = two_lines(caught)
    assert "data.column=promt" in said
    assert "prompt, score" in said


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "y"}\n{"prompt": }\n', "line 3"),
        ("b.jsonl", '{"prompt": "x"}\n\n{"prompt": "y"\n', "line 3"),
        ("c.jsonl", '{"prompt": "x"}\n\n\n"text"\n', "line 4"),
        ("d.csv", 'prompt\nx\n"y\n', "line 3"),
        ("e.csv", "prompt,b\nx,1\ny,1\nz,1,2\n", "line 4"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        tables.read([tmp_path / name], tmp_path / "cache")
    assert said in caught.value.message
    assert " row " not in caught.value.message


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_values_are_as_the_file_has_them(kind, tmp_path):
    """Words that pandas takes for missing are words; a missing whole number makes no other a fraction."""
    rows = [
        {"prompt": "None", "count": 1, "share": 0.5, "code": "007"},
        {"prompt": "NA", "count": None, "share": 2.0, "code": "1e3"},
        {"prompt": "nan", "count": 3, "share": None, "code": None},
        {"prompt": "null", "count": -4, "share": 1.25, "code": "x"},
    ]
    path = tmp_path / f"t.{kind}"
    if kind == "jsonl":
        write_jsonl(path, rows)
    else:
        mark = {"csv": ",", "tsv": "\t"}[kind]
        lines = [mark.join("" if value is None else str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join([mark.join(rows[0]), *lines]) + "\n")
    found = tables.read([path], tmp_path / "cache")
    assert found == as_columns(rows)
    assert [type(value) for value in found["count"]] == [int, type(None), int, int]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_that_changes_but_not_in_time_is_read_again(kind, tmp_path):
    path = written(tmp_path, kind)
    before = path.stat()
    tables.read([path], tmp_path / "cache")
    first = sha256(path)
    later = [{"prompt": f"another {i}", "score": i} for i in range(3)]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(as_columns(later)), path)
    elif kind == "csv":
        path.write_text("\n".join(["prompt,score", *(f"{r['prompt']},{r['score']}" for r in later)]))
    else:
        write_jsonl(path, later)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tables.read([path], tmp_path / "cache") == as_columns(later)
    assert sha256(path) != first
