"""Files are replaced as a whole, and what stands in the way is said in a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmanet_core.errors import OutputError, nearest_name, suggest_name
from lmanet_core.files import output_errors, replace_file


@pytest.mark.parametrize("durable", [False, True])
def test_the_new_file_takes_the_place_of_the_old_one(tmp_path, durable):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replace_file(path, durable) as file:
        file.write_text("new")
        assert path.read_text() == "old" and file.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("failure", "wanted", "said"),
    [
        (OSError(errno.ENOSPC, "full"), OutputError, "a.txt: cannot be written: no space is left for it"),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "now"),
        (ValueError("no such tensor"), ValueError, "no such tensor"),
    ],
)
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, failure, wanted, said):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(wanted, match=said), replace_file(path) as file:
        file.write_text("half of it")
        raise failure
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_that_the_user_gives_files(tmp_path):
    (tmp_path / "plain").write_text("")
    with replace_file(tmp_path / "replaced") as file:
        file.write_text("")
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EDQUOT, "no space is left for it"),
        (errno.ENOENT, "there is no such folder"),
        (errno.EACCES, "writing there is not permitted"),
        (errno.ENOTDIR, "a folder is needed"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_what_stands_in_the_way_is_said(tmp_path, code, said):
    with pytest.raises(OutputError, match=f"x: cannot be written: {said}"), output_errors(tmp_path / "x"):
        raise OSError(code, os.strerror(code))


def test_a_full_disk_says_how_much_is_wanted_and_how_much_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free={tmp_path: 250_000}[folder]))
    wanted = r"no space is left for it \(it takes 8\.4 MB, 0\.2 MB are free there\); free some"
    with pytest.raises(OutputError, match=wanted), replace_file(tmp_path / "none" / "x", needed=8_400_000):
        raise OSError(errno.ENOSPC, "full")
    monkeypatch.setattr("shutil.disk_usage", Path.stat)  # of a disk that cannot be asked
    with pytest.raises(OutputError, match="no space is left for it; free some"), output_errors(tmp_path / "none" / "x"):
        monkeypatch.setattr("shutil.disk_usage", lambda folder: (tmp_path / "gone").stat())
        raise OSError(errno.ENOSPC, "full")


def test_a_name_much_like_another_is_suggested():
    assert suggest_name("rode", ("road", "car")) == "; did you mean road?"
    assert suggest_name("xyz", ("road", "car")) == ""
    assert suggest_name("xyz", iter(("road", "car")), "classes are") == "; classes are road, car"
    assert nearest_name("rode", ()) == "" and nearest_name("rxxd", ("road",), alike=0.5) == "road" != nearest_name(
        "rxxd", ["road"]
    )
