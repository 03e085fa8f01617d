from pathlib import Path

import pytest

from genrecal_mcore.cli import main as command_line
from genrecal_mcore.status import RankStatus, StatusRecord, status_path

GLOO_ERROR = "[/pytorch/third_party/gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:53422"


def test_an_error_in_brackets_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = StatusRecord(rank=0, role="student dp 0", host="node", pid=1, world_size=1)
    status = RankStatus(status_path(tmp_path, 0), record)
    status.ends(GLOO_ERROR)
    status.close()
    monkeypatch.setattr("sys.argv", ["genrecal", "explain", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out.count(GLOO_ERROR) == 2  # in the table, and in the sentence
