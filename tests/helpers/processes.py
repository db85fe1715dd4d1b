"""Work in forked processes."""

from __future__ import annotations

import multiprocessing
import os
import signal

import torch

CONTEXT = multiprocessing.get_context("fork")


def began(work):
    """A forked process that does `work` with one thread and ends with its result as exit status."""

    def alone():
        torch.set_num_threads(1)
        os._exit(work())

    process = CONTEXT.Process(target=alone)
    process.start()
    return process


def ended(*processes):
    """The exit statuses."""
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def in_child(work, uid=None):
    """Run `work` in a forked child and fail with its traceback; as another user where that is asked for and allowed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # a child that hangs ends, and fails
            if uid is not None and os.getuid() == 0:
                os.setuid(uid)
            work()
            code = 0
        except BaseException:
            import traceback

            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    assert os.waitpid(pid, 0)[1] == 0, text
