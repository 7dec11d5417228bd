"""Both ends of the duplex benchmark with the published Python package.

duplex.py relay NAME BYTES: prints "ready" when it has made its buffer, and answers each request with
a copy of it until its standard input ends.
duplex.py client NAME BYTES WARM_UP FRAMES INTERVAL_NS: one request at a time, and prints the round
trips in nanoseconds in one line.
"""

import struct
import sys
import time

from zerobuffer import BufferConfig, ZeroBufferException
from zerobuffer.duplex import DuplexClient, ImmutableDuplexServer

# As the package's client makes its own.
RING = 256 << 20


def relay(name, _bytes):
    def copy(request, responses):
        place = responses.get_frame_buffer(len(request))
        place[:] = request.data
        place.release()
        responses.commit_frame()

    # It waits so long for its client, and for the end of a wait when it is stopped.
    server = ImmutableDuplexServer(name, BufferConfig(4096, RING), timeout=4.0)
    server.start(copy)
    while server.request_reader is None:
        time.sleep(0.001)
    print("ready", flush=True)
    sys.stdin.read()
    server.stop()


def connect(name):
    deadline = time.monotonic() + 10
    while True:
        try:
            return DuplexClient(name)
        except ZeroBufferException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def client(name, size, warm_up, frames, interval):
    trips = []
    with connect(name) as client:
        due = time.monotonic_ns()
        for number in range(1, warm_up + frames + 1):
            now = time.monotonic_ns()
            time.sleep(max(0, due - now) / 1e9)
            start = time.monotonic_ns()
            _, place = client.acquire_request_buffer(size)
            struct.pack_into("<qq", place, 0, start, number)
            place.release()
            client.commit_request()
            answer = client.receive_response(timeout_ms=10_000)
            stamp = struct.unpack_from("<qq", answer.data)
            end = time.monotonic_ns()
            assert answer.sequence == number and len(answer) == size and stamp == (start, number)
            answer.dispose()
            if number > warm_up:
                trips.append(end - start)
            due = max(due + interval, end) if number > warm_up else end
    print(*trips)


{"relay": relay, "client": client}[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
