"""Writes frames into a ZeroBuffer with the published Python package; command line as zb_write.

zb_py_write.py NAME FRAMES SIZES METADATA FPS [options]

With --talk it prints "attached" and "written" and waits for a line on stdin before it closes.
"""

import argparse
import sys
import time
from datetime import timedelta

from zerobuffer import BufferFullException, Writer, ZeroBufferException

ATTACH_TIMEOUT = 10.0
WRITE_TIMEOUT = 30.0
PATTERN = bytes(range(256))


def attach(name):
    deadline = time.monotonic() + ATTACH_TIMEOUT
    while True:
        try:
            return Writer(name)
        except ZeroBufferException as err:
            # No buffer yet, or one that its reader is still making.
            if type(err) is not ZeroBufferException or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def write_frame(writer, data):
    """It looks at its reader only when it has waited for write_timeout in vain."""
    deadline = time.monotonic() + WRITE_TIMEOUT
    while True:
        try:
            return writer.write_frame(data)
        except BufferFullException:
            if time.monotonic() > deadline:
                raise


def write(args, number):
    writer = attach(args.name)
    writer.write_timeout = timedelta(seconds=args.write_timeout)
    if args.talk:
        print("attached", flush=True)
    if args.metadata != "-" and number == 0:
        writer.set_metadata(args.metadata.encode())
    start = time.monotonic()
    for i in range(args.frames):
        if args.fps:
            time.sleep(max(0.0, start + i / args.fps - time.monotonic()))
        size = args.sizes[i % len(args.sizes)]
        # Byte j of frame i is (i + j) & 255.
        first = i & 255
        data = (PATTERN * (size // 256 + 2))[first : first + size]
        if args.zero_copy:
            view = writer.get_frame_buffer(size)
            view[:] = data
            if args.release_views:
                view.release()
            writer.commit_frame()
        else:
            write_frame(writer, data)
    if args.talk:
        print("written", flush=True)
        sys.stdin.readline()
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("frames", type=int)
    parser.add_argument("sizes", type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("metadata")
    parser.add_argument("fps", type=float)
    parser.add_argument("--talk", action="store_true")
    parser.add_argument("--zero-copy", action="store_true", help="get_frame_buffer and commit_frame")
    parser.add_argument("--release-views", action="store_true", help="release zero-copy views at once")
    parser.add_argument("--writers", type=int, default=1, help="so many, one after another")
    parser.add_argument("--write-timeout", type=float, default=30.0)
    args = parser.parse_args()
    try:
        for number in range(args.writers):
            write(args, number)
    except ZeroBufferException as err:
        print(f"zb_py_write: {type(err).__name__}: {err}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
