"""The first signal interrupts, the second is ignored, the third ends the process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from gristmill.cluster.runtime.interrupt import SIGNALS, defer, interruptible, leave_within, signal_name

THREE = """
import os, signal
from gristmill.cluster.runtime.interrupt import interruptible
with interruptible():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt as error:
        print(error, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_interrupts_under_its_name_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with interruptible(), pytest.raises(KeyboardInterrupt) as caught:
        os.kill(os.getpid(), number)
    assert signal_name(caught.value) == number.name
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_signal_keeps_its_name_where_a_library_raises_an_interrupt_of_its_own() -> None:
    with interruptible():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        except KeyboardInterrupt:
            assert signal_name(KeyboardInterrupt()) == "SIGHUP"  # as Ray's core does while it waits
    with interruptible():
        assert signal_name(KeyboardInterrupt()) == "SIGINT"


def test_the_second_signal_is_ignored_and_the_third_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", THREE], capture_output=True, text=True, check=False)
    assert done.stdout == "SIGTERM\ngoes on\n"
    assert done.returncode == -signal.SIGTERM
    assert done.stderr == ""


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_deferred_signal_takes_effect_after_the_block_as_before_it() -> None:
    done = []
    with interruptible(), pytest.raises(KeyboardInterrupt) as caught:
        with defer() as put_back:
            os.kill(os.getpid(), signal.SIGHUP)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a library does
            put_back()
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("block")
        done.append("after")
    assert done == ["block"]
    assert signal_name(caught.value) == "SIGHUP"


def test_a_deferred_signal_also_follows_an_error_of_the_block() -> None:
    with interruptible(), pytest.raises(KeyboardInterrupt) as caught, defer():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError
    assert isinstance(caught.value.__context__, ValueError)


FORKS = """
import os, signal, time
from gristmill.cluster.runtime.interrupt import interruptible, leave_within
with interruptible(), leave_within(0.2, print):
    child = os.fork()
    if not child:
        time.sleep(60)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(0.6)
print("goes on", flush=True)
"""


def test_a_signal_to_a_forked_process_ends_that_process_alone() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["goes on"])


def test_the_bound_on_a_shutdown_leaves_no_thread_and_no_handler_behind() -> None:
    before = threading.active_count()
    with leave_within(60, print):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert signal.set_wakeup_fd(-1) == -1


INSIST = """
import os, signal
from gristmill.cluster.runtime.interrupt import defer
with defer():
    for count in range(3):
        print(count, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
"""


def test_the_third_deferred_signal_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", INSIST], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n1\n2\n", "", -signal.SIGINT)


def test_another_thread_leaves_the_handlers_alone() -> None:
    found: list[object] = []

    def work() -> None:
        with interruptible():
            found.extend(signal.getsignal(each) for each in SIGNALS)

    before = [signal.getsignal(each) for each in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == before


def test_the_interrupt_of_python_itself_is_that_of_ctrl_c() -> None:
    assert signal_name(KeyboardInterrupt()) == "SIGINT"
