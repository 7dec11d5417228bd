"""Prints, as hexadecimal lines, what the published Python test utilities make of SIZE SEQUENCE.

zb_py_patterns.py SIZE SEQUENCE [SIZE SEQUENCE …]: three lines each, frame data, simple frame data
and metadata.
"""

import sys

from zerobuffer_serve.test_data_patterns import TestDataPatterns as Patterns

numbers = [int(number) for number in sys.argv[1:]]
for size, sequence in zip(numbers[::2], numbers[1::2]):
    print(Patterns.generate_frame_data(size, sequence).hex())
    print(Patterns.generate_simple_frame_data(size).hex())
    print(Patterns.generate_metadata(size).hex())
