"""Run a module as the main program, and end it when the process that started it is gone.

Not imported: `sdk.cluster` hands this text to a new interpreter, so that a broker never loads the
sdk. Standard input is a pipe whose other end the parent holds; its end is the parent's, however
that died.
"""

import os
import runpy
import shutil
import signal
import sys
import threading
import time

# How long it may take to end politely, and then urgently: long enough for a machine that is busy
# with other things, since what is killed cannot clean up. The file of a host's name would stay.
GRACES_S = (1.0, 10.0)

is_orphan = threading.Event()


def watch(pipe: int, folder: str) -> None:
    """Wait for the end of the pipe; then end politely, urgently, at last without asking."""
    while os.read(pipe, 4096):
        pass
    is_orphan.set()
    for grace_s in GRACES_S:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Take the folder to remove (or nothing) and the module from the command line."""
    _, folder, module, *arguments = sys.argv
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.argv = [module, *arguments]
    threading.Thread(target=watch, args=(pipe, folder), daemon=True).start()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # An orderly end comes here before the last resort above.
        if folder and is_orphan.is_set():
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
