"""CPython's multiprocessing.Queue from one process to another: python3 cpython_queue.py COUNT.

Prints items per second.
"""
import multiprocessing
import sys
import time


def produce(queue, count):
    for i in range(count):
        queue.put(i)


if __name__ == "__main__":
    count = int(sys.argv[1])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    producer = context.Process(target=produce, args=(queue, count))
    start = time.perf_counter()
    producer.start()
    for i in range(count):
        if queue.get() != i:
            sys.exit("another item")
    print(count / (time.perf_counter() - start))
    producer.join()
