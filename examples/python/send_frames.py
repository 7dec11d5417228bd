"""A producer: it draws pictures and feeds a pipeline with them.

    pip install zerobuffer-ipc numpy opencv-python
    gst-launch-1.0 zerobuffersrc buffer-name=BUFFER ! videoconvert ! autovideosink
    python send_frames.py BUFFER [FRAMES [WIDTH HEIGHT]]
"""

import sys
import time

import cv2
import numpy as np
from zerobuffer import Writer, ZeroBufferException


def attach(buffer):
    deadline = time.monotonic() + 10
    while True:
        try:
            return Writer(buffer)
        except ZeroBufferException:  # no reader yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main(buffer, frames=300, width=640, height=480, fps=30):
    frames, width, height = int(frames), int(width), int(height)
    row = (3 * width + 3) // 4 * 4  # as GStreamer has BGR
    writer = attach(buffer)
    caps = f"video/x-raw, format=BGR, width={width}, height={height}, framerate={fps}/1"
    writer.set_metadata(f'{{"caps": "{caps}"}}'.encode())
    start = time.monotonic()
    for i in range(frames):
        # Drawn where the pipeline reads it.
        place = writer.get_frame_buffer(row * height)
        picture = np.ndarray((height, width, 3), np.uint8, place, strides=(row, 3, 1))
        picture[:] = (64, 32, 0)
        x = i * width // frames
        cv2.rectangle(picture, (x, height // 4), (x + width // 8, height // 2), (0, 200, 255), cv2.FILLED)
        del picture
        place.release()
        writer.commit_frame()
        time.sleep(max(0.0, start + (i + 1) / fps - time.monotonic()))
    writer.close()


main(*sys.argv[1:])
