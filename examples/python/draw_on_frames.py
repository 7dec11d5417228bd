"""A worker for zerobufferfilter: it draws on every frame of a pipeline.

    pip install zerobuffer-ipc numpy opencv-python
    python draw_on_frames.py CHANNEL
    gst-launch-1.0 videotestsrc ! video/x-raw,format=BGR ! zerobufferfilter channel-name=CHANNEL ! \
        videoconvert ! autovideosink

It works on shared memory at both ends, and serves one pipeline after another. Ctrl-C ends it.
"""

import json
import re
import sys
import time

import cv2
import numpy as np
from zerobuffer import BufferConfig
from zerobuffer.duplex import DuplexChannelFactory

size = None


def look(metadata):  # comes before the first frame
    global size
    caps = json.loads(bytes(metadata))["caps"]
    size = [int(re.search(rf"{key}=\(int\)(\d+)", caps)[1]) for key in ("height", "width")]


def picture(data):  # GStreamer's rows may have padding
    return np.ndarray((*size, 3), np.uint8, data, strides=(len(data) // size[0], 3, 1))


def draw(request, answers):
    answer = picture(answers.get_frame_buffer(len(request)))
    np.copyto(answer, picture(request.data))
    cv2.circle(answer, (size[1] // 2, size[0] // 2), size[0] // 4, (0, 0, 255), thickness=8)
    del answer  # it shows shared memory
    answers.commit_frame()


def main(channel):
    config = BufferConfig(metadata_size=4096, payload_size=64 << 20)
    server = DuplexChannelFactory.get_instance().create_immutable_server(channel, config, timeout=1.0)
    try:
        while True:
            # It stops when its client has gone, or when none has come for 1 s.
            server.start(draw, look)
            while server.is_running:
                time.sleep(0.05)
            server.stop()  # waits until it has: it says so before its thread is done
    except KeyboardInterrupt:
        server.stop()


main(*sys.argv[1:])
