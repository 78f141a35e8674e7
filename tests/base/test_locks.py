"""Locks between processes."""

import signal
import subprocess
import sys
import threading

import pytest

from keras_netvlad.base.locks import directory_lock, exclusive

HOLD = """
import sys, time
from keras_netvlad.base.locks import exclusive
with exclusive(sys.argv[1], "taken"):
    print("held", flush=True)
    time.sleep(300)
"""


def test_a_lock_is_free_again_after_its_block(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        with exclusive(path, "taken"):
            assert path.exists()
    assert path.exists()


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="within"), exclusive(tmp_path / "lock", "taken"):
        raise ValueError("within")
    with exclusive(tmp_path / "lock", "taken"):
        pass


def test_two_locks_do_not_disturb_each_other(tmp_path):
    with exclusive(tmp_path / "one", "taken"), exclusive(tmp_path / "two", "taken"):
        pass


def test_a_lock_that_is_held_raises_the_given_message_and_a_killed_process_releases_it(tmp_path):
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=r"^`output` is in use$"), exclusive(path, "`output` is in use"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with exclusive(path, "taken"):
        pass


def test_a_locked_directory_is_waited_for(tmp_path):
    entered = []

    def enter():
        with directory_lock(tmp_path):
            entered.append("second")

    second = threading.Thread(target=enter)
    with directory_lock(tmp_path):
        second.start()
        second.join(0.3)
        entered.append("first")
    second.join(60)
    assert entered == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_such_locks_is_named():
    program = "import sys; sys.modules['fcntl'] = None; import keras_netvlad.base.locks"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.stderr.splitlines()[-1] == (
        "ImportError: Locks of files need Linux or macOS; on Windows, use the Windows Subsystem for Linux, see "
        "docs/windows.md."
    )
