"""CPython's multiprocessing.Value, incremented by two processes: python3 cpython_value.py COUNT.

Prints one number: increments per second.
"""
import multiprocessing
import sys
import time


def work(value, count):
    for _ in range(count):
        with value.get_lock():
            value.value += 1


if __name__ == "__main__":
    count = int(sys.argv[1])
    context = multiprocessing.get_context("fork")
    value = context.Value("q", 0)
    workers = [context.Process(target=work, args=(value, count)) for _ in range(2)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert value.value == 2 * count
    print(2 * count / (time.perf_counter() - start))
