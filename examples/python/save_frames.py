"""A consumer: it saves the frames of a pipeline as pictures, or shows them.

    pip install zerobuffer-ipc numpy opencv-python
    python save_frames.py BUFFER FOLDER      (or: python save_frames.py BUFFER --show)
    gst-launch-1.0 videotestsrc num-buffers=10 ! video/x-raw,format=BGR ! zerobuffersink buffer-name=BUFFER

It ends with the stream, of whose end it hears when nothing has come for 2 s.
"""

import json
import pathlib
import re
import sys

import cv2
import numpy as np
from zerobuffer import BufferConfig, Reader, WriterDeadException


def main(buffer, where):
    reader = Reader(buffer, BufferConfig(metadata_size=4096, payload_size=64 << 20))
    count = 0
    try:
        while True:
            try:
                frame = reader.read_frame(timeout=2.0)
            except WriterDeadException:  # it has gone, or has not come yet
                if count:
                    break
                continue
            if frame is None:
                continue
            with frame:  # its room goes back to the pipeline at the end of the block
                caps = json.loads(bytes(reader.get_metadata()))["caps"]
                height, width = (int(re.search(rf"{key}=\(int\)(\d+)", caps)[1]) for key in ("height", "width"))
                # GStreamer's rows may have padding.
                row = len(frame.data) // height
                picture = np.ndarray((height, width, 3), np.uint8, frame.data, strides=(row, 3, 1))
                if where == "--show":
                    cv2.imshow(buffer, picture)
                    cv2.waitKey(1)
                else:
                    cv2.imwrite(str(pathlib.Path(where, f"{count:04}.png")), picture)
                count += 1
                del picture  # it shows shared memory
        print(f"{count} frames")
    finally:
        reader.close()


main(*sys.argv[1:])
