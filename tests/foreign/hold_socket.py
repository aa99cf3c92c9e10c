"""Keeps a listening socket as systemd does (sd_listen_fds(3)), and runs COMMAND with it:
hold_socket.py ADDRESS PORT COMMAND... SIGTERM ends the command in order and starts it anew."""

import ctypes
import os
import signal
import socket
import sys

listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=4096)
child = 0


def start():
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if listener.fileno() == 3:
        os.set_inheritable(3, True)
    else:
        os.dup2(listener.fileno(), 3)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.execvp(sys.argv[3], sys.argv[3:])


def restart(*_):
    os.kill(child, signal.SIGTERM)


signal.signal(signal.SIGTERM, restart)
while True:
    child = start()
    print("holder: started", child, flush=True)
    while True:
        try:
            _, status = os.waitpid(child, 0)
            break
        except InterruptedError:
            pass
    print("holder: ended", os.waitstatus_to_exitcode(status), flush=True)
