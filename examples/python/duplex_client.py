"""A client of a duplex channel: it sends pictures to a worker and looks at what comes back.

    pip install zerobuffer-ipc numpy
    python duplex_client.py CHANNEL [PICTURES [WIDTH HEIGHT]]

It makes pictures of RGB pixels in which a bright bar moves to the right, sends each to the worker of
the channel (zb_duplex_server, duplex_worker.py, yours), and prints for every answer its number, its
size, and the column that is brightest and that which is darkest.
"""

import sys
import time

import numpy as np
from zerobuffer import ZeroBufferException
from zerobuffer.duplex import DuplexChannelFactory


def connect(channel, patience=10.0):
    deadline = time.monotonic() + patience
    while True:
        try:
            return DuplexChannelFactory.get_instance().create_client(channel)
        except ZeroBufferException:  # no worker yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main(channel, pictures=10, width=320, height=240):
    pictures, width, height = int(pictures), int(width), int(height)
    with connect(channel) as client:
        for i in range(pictures):
            # Room in the ring of the requests, to be drawn on.
            number, place = client.acquire_request_buffer(width * height * 3)
            picture = np.frombuffer(place, np.uint8).reshape(height, width, 3)
            picture[:] = 64
            picture[:, i * width // pictures] = 200
            del picture
            place.release()
            client.commit_request()

            answer = client.receive_response(timeout_ms=5000)
            # Nothing but their numbers ties an answer to its request.
            if not answer.is_valid or answer.sequence != number:
                raise SystemExit(f"no answer to request {number}")
            with answer:
                result = np.frombuffer(answer.data, np.uint8)
                columns = result.reshape(height, width, 3).mean(axis=(0, 2))
                print(f"{number}: {result.size} bytes, {columns.argmax()} is brightest, {columns.argmin()} darkest")
                del result


main(*sys.argv[1:])
