"""A duplex server of the published Python package.

zb_py_duplex_server.py NAME WORK [options]: makes the buffer NAME_request and answers. WORK is echo,
invert (in place), twice (as long), double (two answers), or fail-N (echo, but request N raises).
Prints "ready" when its buffer is there, "metadata TEXT" when it gets some, "error NAME" for each
error, and "stopped" when it stops by itself; ends when its standard input does.
"""

import argparse
import select
import sys
import time
from datetime import timedelta

from zerobuffer import BufferConfig
from zerobuffer.duplex import ImmutableDuplexServer

TABLE = bytes(255 - i for i in range(256))


def handler(args):
    kind, _, number = args.work.partition("-")
    announced = not args.metadata

    def work(request, responses):
        nonlocal announced
        responses.write_timeout = timedelta(seconds=args.write_timeout)
        if not announced:
            announced = True
            responses.set_metadata(args.metadata.encode())
        if kind == "fail" and request.sequence == int(number):
            raise ValueError("as it was told")
        data = bytes(request.data)
        if kind == "invert":
            place = responses.get_frame_buffer(len(data))
            place[:] = data.translate(TABLE)
            place.release()
            responses.commit_frame()
        else:
            for _ in range(2 if kind == "double" else 1):
                responses.write_frame(data * 2 if kind == "twice" else data)

    return work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("work")
    parser.add_argument("--payload", type=int, default=1 << 20)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--write-timeout", type=float, default=30.0)
    parser.add_argument("--metadata")
    args = parser.parse_args()
    say = lambda text: print(text, flush=True)

    server = ImmutableDuplexServer(args.name, BufferConfig(4096, args.payload), args.timeout)
    server.add_error_handler(lambda event: say(f"error {type(event.exception).__name__}"))
    server.start(handler(args), lambda view: say(f"metadata {bytes(view).decode()}"))
    while server.request_reader is None:
        if not server.is_running:
            return 1
        time.sleep(0.001)
    say("ready")
    while server.is_running:
        if select.select([sys.stdin], [], [], 0.01)[0]:
            server.stop()
            return 0
    say("stopped")
    sys.stdin.readline()
    return 0


sys.exit(main())
