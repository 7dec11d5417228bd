"""A client of RocketWelder's SDK, which prints a JSON line for each frame that it gets.

zb_rw_client.py [CONNECTION_STRING] [--frames=N] [--draw] [--controller=client|metadata|none]

Without a CONNECTION_STRING it is in the environment. It prints "started", stops after N frames, or
when there is a line on its standard input, or ends when the SDK does, and prints "stopped", "running"
or "ended". With --draw it draws a rectangle, in duplex
mode on a copy of the frame, and in one-way mode on the frame.

With --controller=metadata it is the SDK's controller that also tells what is in front of the pixels, in
one-way mode by an interface of its own; with --controller=none there is only a reader, and the SDK understands what that reads.
"""

import argparse
import json
import logging
import select
import sys
import threading
import zlib

import cv2
import numpy as np
import rocket_welder_sdk as rw
from zerobuffer import BufferConfig, Reader


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("connection", nargs="?")
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--controller", default="client")
    args = parser.parse_args()
    # What the SDK finds wrong is a line on stderr.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    client = rw.Client.from_(sys.argv)
    count = 0
    started, done, stopping = threading.Event(), threading.Event(), threading.Event()

    def say(text):
        # A line is one call, whichever thread comes in between.
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def tell(frame, told=None):
        nonlocal count
        started.wait()
        line = {"shape": frame.shape, "crc32": zlib.crc32(np.ascontiguousarray(frame))}
        if told:
            line |= {"number": told.frame_number, "pts": told.timestamp_ns, "exposure": told.exposure_time_us}
        else:
            line["caps"] = client.get_metadata().caps.caps_string
        say(json.dumps(line))
        count += 1
        if count == args.frames:
            done.set()
            # Or the SDK's thread is in its next read before it is told to stop, and stays there until
            # that times out.
            stopping.wait()

    def draw(frame):
        if args.draw:
            cv2.rectangle(frame, (1, 1), (3, 3), (255,) * 4, cv2.FILLED)

    # What comes while the client stops must not ask it anything: it would wait for itself.
    def one_way(frame):
        if not done.is_set():
            tell(frame)
            draw(frame)

    def duplex(frame, result):
        if not done.is_set():
            tell(frame)
        np.copyto(result, frame)
        draw(result)

    def duplex_with_metadata(told, frame, result):
        if not done.is_set():
            tell(frame, told)
        np.copyto(result, frame)
        draw(result)

    def with_metadata(told, frame):
        if not done.is_set():
            tell(frame, told)
            draw(frame)

    def read():
        config = BufferConfig(int(connection.metadata_size), int(connection.buffer_size))
        reader = Reader(connection.buffer_name, config)
        # This thread stops by itself.
        stopping.set()
        say("started")
        started.set()
        while not done.is_set():
            with reader.read_frame(connection.timeout_ms / 1000) as frame:
                caps = rw.GstMetadata.from_json(bytes(reader.get_metadata())).caps
                pixels = caps.create_array(frame.data[rw.FRAME_METADATA_SIZE :])
                tell(pixels, rw.FrameMetadata.from_bytes(frame.data))
        reader.close()
        say("stopped")

    connection = client.connection
    if args.controller == "none":
        return read()
    running = client
    is_duplex = connection.connection_mode == rw.ConnectionMode.DUPLEX
    if args.controller == "metadata" and is_duplex:
        running = rw.DuplexShmController(connection)
        running.start(duplex_with_metadata)
    elif args.controller == "metadata":
        running = rw.OneWayShmController(connection)
        running.start_with_metadata(with_metadata)
    elif is_duplex:
        client.start(duplex)
    else:
        client.start(one_way)
    say("started")
    started.set()
    asked, inputs = False, [sys.stdin]
    while running.is_running and not asked and not done.wait(0.01):
        if select.select(inputs, [], [], 0)[0]:
            asked = sys.stdin.readline() != ""
            inputs = []
    state = "stopped" if done.is_set() else "running" if running.is_running else "ended"
    stopping.set()
    running.stop()
    say(state)


main()
