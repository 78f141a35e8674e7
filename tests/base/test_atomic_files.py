"""Files and directories that appear complete: after an error, a kill and in the order in which they reach the disk."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from keras_netvlad.base import atomic_files
from keras_netvlad.base.atomic_files import copy_file, replaced, staged
from keras_netvlad.base.full_disk_error import FullDiskError, write_error
from keras_netvlad.base.locks import directory_lock


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def events(monkeypatch):
    """Names of the files that are flushed and renamed, in order."""
    recorded = []
    real = {name: getattr(os, name) for name in ("rename", "replace")}

    def flush(path):
        recorded.append(("flush", Path(path).name))

    def renaming(name):
        def rename(source, target):
            recorded.append(("rename", Path(target).name))
            real[name](source, target)

        return rename

    monkeypatch.setattr(atomic_files, "flush", flush)
    for name in real:
        monkeypatch.setattr(os, name, renaming(name))
    return recorded


def test_a_staged_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "a" / "b" / "model.onnx"
    with staged(target) as path:
        assert path.name == "model.onnx"
        path.write_text("weights")
        assert not target.exists()
    assert target.read_text() == "weights"
    assert names(target.parent) == ["model.onnx"]


def test_a_staged_directory_appears_with_all_that_it_holds(tmp_path):
    with staged(tmp_path / "1") as path:
        (path / "variables").mkdir(parents=True)
        (path / "variables" / "data").write_text("weights")
        assert names(tmp_path) != ["1"]
    assert (tmp_path / "1" / "variables" / "data").read_text() == "weights"
    # A server that runs as another user reads the directory.
    assert (tmp_path / "1").stat().st_mode & 0o755 == 0o755


def test_a_stage_lies_on_the_file_system_of_its_target_and_is_hidden(tmp_path):
    with staged(tmp_path / "model.onnx") as path:
        assert path.parent.parent == tmp_path
        assert path.parent.name.startswith(".model.onnx.")
        assert path.parent.name.endswith(".partial")
        assert path.parent.stat().st_dev == tmp_path.stat().st_dev
        path.touch()


def test_a_file_and_its_companions_are_flushed_before_the_first_rename_and_the_target_comes_last(tmp_path, events):
    with staged(tmp_path / "model.onnx") as path:
        path.write_text("graph")
        path.with_name("model.onnx.data").write_text("weights")
        path.with_name("zebra.txt").write_text("notes")
    renames = [name for event, name in events if event == "rename"]
    assert renames == ["model.onnx.data", "zebra.txt", "model.onnx"]
    first_rename = events.index(("rename", renames[0]))
    assert {name for _, name in events[:first_rename]} == set(renames)
    assert events[-1] == ("flush", tmp_path.name)


@pytest.fixture
def synchronized(monkeypatch):
    """Paths that reached the disk, and `"rename"` for each rename, in order."""
    recorded = []
    fsync, rename, replace = os.fsync, os.rename, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (recorded.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))[1],
    )
    monkeypatch.setattr(os, "rename", lambda *paths: (recorded.append("rename"), rename(*paths))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (recorded.append("rename"), replace(*paths))[1])
    return recorded


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of open files are read from /proc")
def test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it(tmp_path, synchronized):
    with staged(tmp_path / "1") as path:
        (path / "variables").mkdir(parents=True)
        (path / "variables" / "data").write_text("weights")
        (path / "saved_model.pb").write_text("graph")
        written = {str(one) for one in (path, *path.rglob("*"))}
    before, after = synchronized[: synchronized.index("rename")], synchronized[synchronized.index("rename") + 1 :]
    assert set(before) == written
    assert after == [str(tmp_path)]
    synchronized.clear()
    with replaced(tmp_path / "state.json") as path:
        path.write_text("{}")
    assert synchronized == [str(path), "rename", str(tmp_path)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_stage_whose_block_raises(tmp_path, error):
    def write():
        with staged(tmp_path / "model.onnx") as path:
            path.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert names(tmp_path) == []


def test_a_target_that_exists_is_refused_before_the_block_runs(tmp_path):
    (tmp_path / "model.onnx").write_text("old")
    entered = []
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    for name in ("model.onnx", "dangling"):
        message = rf"The output must not exist yet; .* Received: .*{name}"
        with pytest.raises(FileExistsError, match=message), staged(tmp_path / name):
            entered.append(name)
    assert not entered
    assert (tmp_path / "model.onnx").read_text() == "old"


@pytest.mark.parametrize("kind", ["file", "directory", "empty directory"])
def test_a_target_that_another_process_finished_first_is_kept(tmp_path, kind):
    def fill(path, text):
        if kind == "file":
            path.write_text(text)
            path.with_name("model.onnx.parity.json").write_text(text)
        else:
            path.mkdir()
            if kind == "directory":
                (path / text).write_text(text)

    def content():
        return {
            path.relative_to(tmp_path): path.read_text() if path.is_file() else None for path in tmp_path.rglob("*")
        }

    first, second = staged(tmp_path / "model.onnx"), staged(tmp_path / "model.onnx")
    fill(first.__enter__(), "first")
    fill(second.__enter__(), "second")
    second.__exit__(None, None, None)
    with pytest.raises(FileExistsError, match=r"must not exist yet; .* Received: .*model\.onnx"):
        first.__exit__(None, None, None)
    received = content()
    assert received
    assert all(text in ("second", None) for text in received.values())
    assert not any("first" in path.name or path.name.startswith(".") for path in received)


def test_a_target_appears_only_while_its_directory_is_locked(tmp_path):
    target = tmp_path / "model.onnx"

    def write():
        with staged(target) as path:
            path.write_text("weights")

    writer = threading.Thread(target=write)
    with directory_lock(tmp_path):
        writer.start()
        writer.join(0.5)
        assert not target.exists()
    writer.join(60)
    assert target.read_text() == "weights"


def test_two_processes_are_never_both_told_that_they_wrote_a_file(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from keras_netvlad.base.atomic_files import staged

        try:
            with staged(sys.argv[1]) as path:
                path.write_text(sys.argv[2])
                print("ready", flush=True)
                sys.stdin.readline()
        except FileExistsError:
            print("refused")
        else:
            print("written", sys.argv[2])
        """
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "model.onnx"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    said = sorted(writer.communicate(timeout=60)[0].strip() for writer in writers)
    assert said[:3] == ["refused"] * 3
    assert said[3] == f"written {(tmp_path / 'model.onnx').read_text()}"


def test_names_of_any_length_that_the_file_system_takes(tmp_path):
    for name in ("m" * 255, "\N{EARTH GLOBE EUROPE-AFRICA}" * 63):
        with staged(tmp_path / name) as path:
            path.write_text("new")
        with replaced(tmp_path / name) as path:
            path.write_text("newer")
        assert (tmp_path / name).read_text() == "newer"
    message = r"name must not be longer than the file system allows; shorten it\. Received: .*mmm"
    with pytest.raises(OSError, match=message), staged(tmp_path / ("m" * 256)):
        pass
    assert len(names(tmp_path)) == 2


def test_a_parent_that_cannot_hold_the_target_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"must be one that can be written to. Received: .*file \("):
        staged(tmp_path / "file" / "model.onnx").__enter__()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("is_foreign", [False, True])
def test_a_full_disk_leaves_nothing_and_is_one_sentence(tmp_path, number, is_foreign):
    def write(path):
        path.write_text("weights")
        if is_foreign:  # as TensorFlow and HDF5 say it
            raise RuntimeError(f"{tmp_path}/events; {os.strerror(number)}")
        raise OSError(number, os.strerror(number))

    for writing, name in ((staged, "model.onnx"), (replaced, "state.json")):
        message = rf"The disk must have room .* Received: .*{name} \({os.strerror(number)}\)$"
        with pytest.raises(FullDiskError, match=message), writing(tmp_path / name) as path:
            write(path)
    assert names(tmp_path) == []


def test_a_disk_that_is_full_when_files_are_flushed_is_one_sentence(tmp_path, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_files, "flush", full)
    for writing in (staged, replaced):
        with pytest.raises(FullDiskError, match="No space left"), writing(tmp_path / "model.onnx") as path:
            path.write_text("weights")
    assert names(tmp_path) == []


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    target = tmp_path / "state.json"
    for text in ("first", "second"):
        with replaced(target) as path:
            path.write_text(text)
            assert path.parent == tmp_path
        assert target.read_text() == text
        assert names(tmp_path) == ["state.json"]


def test_a_replaced_file_is_flushed_before_it_is_renamed(tmp_path, events):
    with replaced(tmp_path / "model.keras", suffix=".keras") as path:
        assert path.suffix == ".keras"
        path.write_text("weights")
    assert events == [("flush", path.name), ("rename", "model.keras"), ("flush", tmp_path.name)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_old_file_stays_if_the_block_raises(tmp_path, error):
    (tmp_path / "state.json").write_text("old")

    def write():
        with replaced(tmp_path / "state.json") as path:
            path.write_text("half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert (tmp_path / "state.json").read_text() == "old"
    assert names(tmp_path) == ["state.json"]


def test_a_file_name_without_a_directory_is_replaced_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with replaced("state.json") as path:
        path.write_text("{}")
    assert names(tmp_path) == ["state.json"]


def test_a_process_that_is_killed_within_the_block_leaves_the_target_as_it_was(tmp_path):
    (tmp_path / "state.json").write_text("old")
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from keras_netvlad.base.atomic_files import replaced, staged

        root = Path(sys.argv[1])
        with replaced(root / "state.json") as state, staged(root / "model.onnx") as model:
            state.write_text("half of the n")
            model.write_text("half of the w")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "state.json").read_text() == "old"
    visible = [name for name in names(tmp_path) if not name.startswith(".")]
    assert visible == ["state.json"]
    # The next process is not disturbed by what the killed one left behind.
    with staged(tmp_path / "model.onnx") as path:
        path.write_text("weights")
    with replaced(tmp_path / "state.json") as path:
        path.write_text("new")
    assert (tmp_path / "model.onnx").read_text() == "weights"
    assert (tmp_path / "state.json").read_text() == "new"


def test_a_full_disk_elsewhere_keeps_its_path(tmp_path):
    # A library's temporary file is on another disk than the output.
    target = tmp_path / "out" / "model.onnx"
    for named, expected in (
        ("/elsewhere/x", "/elsewhere/x"),
        (tmp_path / "out" / ".part" / "x", target),
        (None, target),
    ):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), named and str(named))
        message = rf"Received: {expected} \(No space left on device\)$"
        with pytest.raises(FullDiskError, match=message) as caught, staged(target):
            raise error
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(expected)


def test_an_error_of_another_kind_is_not_a_full_disk(tmp_path):
    with pytest.raises(PermissionError, match="denied"), staged(tmp_path / "model.onnx"):
        raise PermissionError(errno.EACCES, "denied")


def test_a_copy_is_flushed_and_names_a_full_disk(tmp_path, events, monkeypatch):
    (tmp_path / "a").write_text("weights")
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "weights"
    assert events == [("flush", "b")]

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_files, "flush", full)
    with pytest.raises(FullDiskError, match=rf"Received: {tmp_path}/c"):
        copy_file(tmp_path / "a", tmp_path / "c")


@pytest.mark.parametrize(
    ("message", "kind"),
    [("x; No space left on device", FullDiskError), ("File too large", FullDiskError), ("bad handle", OSError)],
)
def test_messages_of_libraries_become_errors_of_the_disk(message, kind):
    error = write_error(message, "models/1")
    assert type(error) is kind
    assert "Received: models/1 (" in str(error)
