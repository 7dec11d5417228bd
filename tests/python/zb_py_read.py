"""Reads frames from a ZeroBuffer with the published Python package; command line and output as zb_read.

zb_py_read.py NAME METADATA_SIZE PAYLOAD_SIZE FRAMES TIMEOUT_S [options]

With --talk it prints "ready" when the buffer is there, and "done" after the metadata, and then
waits for a line on stdin before it closes.
"""

import argparse
import json
import sys
import time
import zlib

from zerobuffer import BufferConfig, Reader, WriterDeadException, ZeroBufferException

CREATE_TIMEOUT = 10.0


def create(args):
    config = BufferConfig(metadata_size=args.metadata_size, payload_size=args.payload_size)
    deadline = time.monotonic() + CREATE_TIMEOUT
    while True:
        try:
            return Reader(args.name, config)
        except ZeroBufferException as err:
            # Another Python reader that starts now tries every lock file for a moment.
            if "Failed to acquire lock" not in str(err) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def metadata_line(reader):
    view = reader.get_metadata()
    if view is None:
        return {"metadata": None}
    data = bytes(view)
    view.release()
    try:
        return {"metadata": data.decode()}
    except UnicodeDecodeError:
        return {"metadata": None, "metadata_hex": data.hex()}


def read(args):
    reader = create(args)
    if args.talk:
        print("ready", flush=True)
    try:
        while args.frames == 0 or reader.frames_read < args.frames:
            try:
                frame = reader.read_frame(args.timeout)
            except WriterDeadException as err:
                # The package says so, too, while no writer has come.
                if args.frames == 0 and reader.frames_read == 0:
                    continue
                if args.frames:
                    raise
                # It is the same exception for a writer that closed and one that died.
                print(f"zb_py_read: {type(err).__name__}: {err}", file=sys.stderr)
                break
            if frame is None:
                # No writer yet, or one that does nothing.
                continue
            line = {"seq": frame.sequence, "size": len(frame), "crc32": zlib.crc32(frame.data)}
            frame.dispose()
            print(json.dumps(line), flush=args.talk)
        print(json.dumps(metadata_line(reader)), flush=True)
        if args.talk:
            print("done", flush=True)
            sys.stdin.readline()
    finally:
        reader.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("metadata_size", type=int)
    parser.add_argument("payload_size", type=int)
    parser.add_argument("frames", type=int)
    parser.add_argument("timeout", type=float)
    parser.add_argument("--talk", action="store_true")
    args = parser.parse_args()
    try:
        read(args)
    except ZeroBufferException as err:
        print(f"zb_py_read: {type(err).__name__}: {err}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
