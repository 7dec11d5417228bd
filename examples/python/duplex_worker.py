"""A worker on a duplex channel: it inverts the colours of every picture that it gets.

    pip install zerobuffer-ipc numpy
    python duplex_worker.py CHANNEL [REQUEST_BYTES]

Any client may send it pictures, one after another: zb_duplex_client, duplex_client.py, yours. It
works on shared memory at both ends, so a picture is copied nowhere. Ctrl-C ends it.
"""

import sys
import time

import numpy as np
from zerobuffer import BufferConfig
from zerobuffer.duplex import DuplexChannelFactory


def work(request, responses):
    place = responses.get_frame_buffer(len(request))  # room in the ring of the answers
    picture = np.frombuffer(request.data, np.uint8)
    result = np.frombuffer(place, np.uint8)
    np.subtract(255, picture, out=result)
    # Arrays must not outlive the shared memory that they show.
    del picture, result
    place.release()
    responses.commit_frame()


def main(channel, request_bytes=64 << 20):
    config = BufferConfig(metadata_size=4096, payload_size=int(request_bytes))
    server = DuplexChannelFactory.get_instance().create_immutable_server(channel, config, timeout=1.0)
    server.add_error_handler(lambda args: print(f"duplex_worker: {args.exception!r}", file=sys.stderr))
    try:
        while True:
            # It stops when its client has gone, or when none has come for 1 s.
            server.start(work)
            while server.is_running:
                time.sleep(0.05)
            server.stop()  # waits until it has: it says so before its thread is done
    except KeyboardInterrupt:
        server.stop()


main(*sys.argv[1:])
