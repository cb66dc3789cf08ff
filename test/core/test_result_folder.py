"""A run removes what a run of ours wrote, as it wrote it, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmanet_core.errors import ConfigError, OutputError
from lmanet_core.media.result_folder import MANIFEST, ResultFolder, free_name


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")


def run(folder, *names, **options):
    with ResultFolder(folder, **options):
        write(folder, *names)


def content(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST}


def refused(folder, words, **options):
    """The claim fails with these words, and not a byte is different afterwards."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=words):
        ResultFolder(folder, **options)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_missing_or_empty_folder_is_taken(tmp_path):
    run(tmp_path / "a" / "b", "x")
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty", "x")
    manifest = json.loads((tmp_path / "empty" / MANIFEST).read_text())
    assert manifest["complete"] and list(manifest["files"]) == ["x"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_users_own_files_are_never_touched(tmp_path, overwrite):
    write(tmp_path / "ds", "images/1.png", "labels/1.png")
    refused(tmp_path / "ds", r"holds images/1\.png, which lmanet did not write: .* such as .*ds_2", overwrite=overwrite)


def test_results_are_replaced_only_when_asked_and_then_all_of_them(tmp_path):
    out = tmp_path / "out"
    run(out, "labels/1.png", "labels/2.png", "summary.json")
    refused(out, r"already holds results \(labels, …\); choose another --out, such as .*out_2, or pass --overwrite")
    run(out, "masks/1.png", overwrite=True)
    assert content(out) == {"masks/1.png"} and not (out / "labels").exists()


@pytest.mark.parametrize("mine", ["notes.txt", "labels/mine.png", "deeper/than/that.txt"])
def test_a_file_beside_results_saves_them_all(tmp_path, mine):
    out = tmp_path / "out"
    run(out, "labels/1.png")
    write(out, mine)
    refused(out, f"holds {mine}, which lmanet did not write", overwrite=True)


def test_a_result_that_was_edited_is_kept(tmp_path):
    out = tmp_path / "out"
    run(out, "labels/1.png", "labels/2.png")
    (out / "labels/2.png").write_text("Content of labels/2.png")  # of the same size
    refused(out, r"holds labels/2\.png, which was changed since lmanet wrote it", overwrite=True)


def test_a_log_may_have_grown_but_not_changed(tmp_path):
    out = tmp_path / "out"
    run(out, "log.csv")
    with (out / "log.csv").open("a") as file:
        file.write("\nmore")
    run(out, "log.csv", overwrite=True)
    (out / "log.csv").write_text("Content of log.csv and more")
    refused(out, r"holds log\.csv, which was changed", overwrite=True)


def test_links_are_not_followed_and_a_link_is_somebodys(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    run(out, "labels/1.png")
    write(elsewhere, "labels/1.png")
    (out / "link").symlink_to(elsewhere, target_is_directory=True)
    refused(out, "holds link, which lmanet did not write", overwrite=True)
    (out / "link").unlink()
    (out / "labels/1.png").unlink()
    (out / "labels/1.png").symlink_to(elsewhere / "labels/1.png")
    refused(out, r"holds labels/1\.png, which was changed", overwrite=True)
    assert content(elsewhere) == {"labels/1.png"}


def test_the_input_is_never_removed(tmp_path):
    out = tmp_path / "out"
    run(out, "result/bag.mcap", "overlay.webm")
    for source in (out / "overlay.webm", out / "result", out):
        refused(out, "--overwrite would delete the input", overwrite=True, inputs=[source])


def test_a_forged_or_broken_manifest_is_none(tmp_path):
    for number, text in enumerate(("", "[]", '{"by": "lmanet"}', '{"files": {"x": [1, "a"]}}', "\x00")):
        out = tmp_path / str(number)
        write(out, "x")
        (out / MANIFEST).write_text(text)
        refused(out, "holds x, which lmanet did not write", overwrite=True)


def test_a_run_that_fails_before_it_has_a_result_leaves_nothing(tmp_path):
    out = tmp_path / "a" / "out"
    with pytest.raises(RuntimeError), ResultFolder(out) as folder:
        folder.keep = False
        write(out, "frames.jsonl")
        (out / "labels" / "deeper").mkdir(parents=True)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_first_start_that_wrote_nothing_leaves_nothing_even_where_runs_go_on(tmp_path):
    with pytest.raises(OSError, match="no weights"), ResultFolder(tmp_path / "deep/out", resume=True):
        raise OSError("no weights")
    assert not (tmp_path / "deep").exists()


def test_a_run_that_fails_later_keeps_what_it_has_and_may_be_replaced(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), ResultFolder(out):
        write(out, "labels/1.png")
        raise RuntimeError
    assert content(out) == {"labels/1.png"}
    run(out, "labels/9.png", overwrite=True)
    assert content(out) == {"labels/9.png"}


def test_a_run_that_goes_on_keeps_everything_and_claims_only_its_own(tmp_path):
    out = tmp_path / "out"
    run(out, "one")
    write(out, "mine")
    run(out, "two", resume=True)
    assert content(out) == {"one", "two", "mine"}
    refused(out, "holds mine, which lmanet did not write", overwrite=True)
    (out / "mine").unlink()
    run(out, "three", overwrite=True)
    assert content(out) == {"three"}


def test_a_run_cannot_go_on_with_what_is_not_ours(tmp_path):
    write(tmp_path / "ds", "x")
    refused(tmp_path / "ds", "holds x, which lmanet did not write", resume=True)


def test_a_run_within_a_run_is_removed_with_it(tmp_path):
    out = tmp_path / "out"
    with ResultFolder(out):
        write(out, "drive.mcap")
        run(out / "report", "summary.json")
    run(out / "report", "report.html", overwrite=True)  # done anew by itself
    write(out / "report", "mine")
    refused(out, "holds report/mine", overwrite=True)
    (out / "report" / "mine").unlink()
    run(out, "new", overwrite=True)
    assert content(out) == {"new"} and not (out / "report").exists()


def test_two_runs_do_not_share_a_folder(tmp_path):
    with ResultFolder(tmp_path / "out"):
        refused(tmp_path / "out", rf"another lmanet \(process {os.getpid()}\) is writing to .*; wait for it, or choose another")
    run(tmp_path / "out", "x")


_KILLED = """
import sys, time
from pathlib import Path
from lmanet_core.media.result_folder import ResultFolder
out = Path(sys.argv[1])
with ResultFolder(out):
    (out / "half").write_text("half")
    print("there", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_the_users_to_remove(tmp_path):
    path = os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})
    assert process.stdout.readline() == b"there\n"
    refused(tmp_path / "out", rf"another lmanet \(process {process.pid}\) is writing|holds half", overwrite=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    refused(
        tmp_path / "out",
        "holds half, which may be of a run that was killed: --resume goes on where there is one, or remove it yourself, or",
        overwrite=True,
    )
    (tmp_path / "out" / "half").unlink()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        run(tmp_path / "out", "x")
        break
    assert content(tmp_path / "out") == {"x"}


def test_what_a_killed_run_said_it_would_write_is_of_the_run_that_goes_on(tmp_path):
    (tmp_path / MANIFEST).write_text(
        json.dumps({"by": "lmanet", "writes": ["labels"], "run": {"a": 1}, "complete": False, "files": {}})
    )
    write(tmp_path, "labels/0.png", "mine.txt")
    with ResultFolder(tmp_path, resume=True, writes=["labels"], run={"a": 1}):
        write(tmp_path, "labels/1.png")
    assert set(json.loads((tmp_path / MANIFEST).read_text())["files"]) == {"labels/0.png", "labels/1.png"}


def test_a_run_of_other_settings_does_not_go_on(tmp_path):
    with ResultFolder(tmp_path / "out", run={"size": "auto", "seed": 1}):
        write(tmp_path, "out/labels")
    with pytest.raises(ConfigError, match="cannot go on with other settings: size: was 'auto', now '8x8'"):
        ResultFolder(tmp_path / "out", resume=True, run={"size": "8x8", "seed": 1})


def test_a_free_name_is_free(tmp_path):
    assert free_name(tmp_path / "out") == tmp_path / "out_2"
    (tmp_path / "out_2").mkdir()
    assert free_name(tmp_path / "out") == tmp_path / "out_3"
    (tmp_path / "v1.2").mkdir()
    (tmp_path / "w.safetensors").touch()
    assert [free_name(tmp_path / name).name for name in ("v1.2", "w.safetensors")] == ["v1.2_2", "w_2.safetensors"]


def test_what_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: cannot be written: a folder is needed"):
        ResultFolder(tmp_path / "file")
