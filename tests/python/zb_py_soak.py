"""An end of examples/soak.rs with the published Python package: zb_py_soak.py write NAME SEED.

It attaches, writes frames that say whose they are, attaches again when the reader has gone, and so
on until a line comes on stdin, or it is killed.
"""

import random
import struct
import sys
import threading
import time
from datetime import timedelta

from zerobuffer import BufferFullException, ReaderDeadException, Writer, ZeroBufferException

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15
LEAST = 16


def mix(x):
    """As in examples/soak.rs."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def length(life, sequence, ring):
    """As in examples/soak.rs."""
    number = mix(life ^ sequence)
    most = min(max(ring // 2 - 256, LEAST), 1 << 20)
    kind = number % 16
    if 1 <= kind < 4:
        most = min(most, 100_000)
    elif 4 <= kind < 9:
        most = min(most, 4096)
    elif kind >= 9:
        most = min(most, 200)
    return LEAST + (number >> 8) % (most - LEAST + 1)


def frame(life, sequence, size):
    """As `fill` in examples/soak.rs."""
    words = (size + 7) // 8
    turned = ((sequence << 32) | (sequence >> 32)) & MASK
    first = life ^ turned
    rest = [(first + at * STEP) & MASK for at in range(2, words)]
    return struct.pack(f"<{words}Q", life, sequence, *rest)[:size]


def write(writer, ring, numbers, close):
    life = numbers.getrandbits(64)
    sequence = 1
    pause = 0.0
    while not close.is_set():
        if numbers.randrange(200) == 0:
            pause = numbers.choice([0.0, 0.0, 0.0, numbers.uniform(0.001, 0.02)])
        time.sleep(pause)
        data = frame(life, sequence, length(life, sequence, ring))
        try:
            writer.write_frame(data)
        except BufferFullException:
            continue
        sequence += 1


def main():
    _, role, name, seed = sys.argv
    assert role == "write"
    numbers = random.Random(int(seed))
    close = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), close.set()), daemon=True).start()
    while not close.is_set():
        try:
            writer = Writer(name)
        except ZeroBufferException:
            # No buffer, or the writer before is still there.
            time.sleep(0.005)
            continue
        writer.write_timeout = timedelta(seconds=0.5)
        try:
            # It tells nobody how large the ring is.
            write(writer, writer._payload_size, numbers, close)
        except ReaderDeadException:
            pass
        finally:
            writer.close()


main()
