"""The report writes over an earlier report, and over nothing else."""

import pytest

from pama_exp.errors import UserError
from pama_exp.report import write_report
from records import write_run


def test_a_folder_of_somebody_elses_is_refused_and_a_reports_is_used_again(tmp_path):
    write_run(tmp_path / "runs" / "one", after={"helpful": 0.5, "concise": 0.5})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.html").write_text("<title>My thesis</title>")
    with pytest.raises(UserError, match=r"such as index\.html"):
        write_report([tmp_path / "runs"], tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["index.html"]
    for _ in range(2):
        assert write_report([tmp_path / "runs"], tmp_path / "new").is_file()
