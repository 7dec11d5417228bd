"""A duplex client of the published Python package; command line and output as zb_duplex_client.

zb_py_duplex_client.py NAME REQUESTS SIZES IN_FLIGHT METADATA [options]

With --in-place the requests are acquired, filled and committed. With --hold it prints "holding"
after the last answer and waits for a line on stdin. An exception is a line on stderr and status 1.
"""

import argparse
import json
import sys
import time
import zlib

from zerobuffer import ZeroBufferException
from zerobuffer.duplex import DuplexClient

PATTERN = bytes(range(256))


def connect(name):
    deadline = time.monotonic() + 10
    while True:
        try:
            return DuplexClient(name)
        except ZeroBufferException as err:
            if type(err) is not ZeroBufferException or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def send(client, args, i):
    size = args.sizes[i % len(args.sizes)]
    first = i & 255
    data = (PATTERN * (size // 256 + 2))[first : first + size]
    if not args.in_place:
        return client.send_request(data)
    number, place = client.acquire_request_buffer(size)
    place[:] = data
    place.release()
    client.commit_request()
    return number


def run(args):
    client = connect(args.name)
    if args.metadata != "-":
        client._request_writer.set_metadata(args.metadata.encode())
    sent = 0
    for received in range(args.requests):
        while sent < args.requests and sent - received < args.in_flight:
            number = send(client, args, sent)
            sent += 1
            assert number == sent, (number, sent)
        answer = client.receive_response(timeout_ms=int(args.timeout * 1000))
        if not answer.is_valid:
            raise SystemExit("no answer")
        with answer:
            line = {"request": answer.sequence, "size": len(answer), "crc32": zlib.crc32(answer.data)}
        print(json.dumps(line), flush=args.hold)
    if args.hold:
        print("holding", flush=True)
        sys.stdin.readline()
    client.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("requests", type=int)
    parser.add_argument("sizes", type=lambda text: [int(size) for size in text.split(",")])
    parser.add_argument("in_flight", type=int)
    parser.add_argument("metadata")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--timeout", type=float, default=60.0)
    args = parser.parse_args()
    try:
        run(args)
    except ZeroBufferException as err:
        print(f"zb_py_duplex_client: {type(err).__name__}: {err}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
