"""CPython's multiprocessing.Pool at the same jobs: python3 cpython_pool.py JOB WORKERS COUNT.

Prints one number: tasks per second (throughput), microseconds (round_trip) or seconds (map).
"""
import collections
import multiprocessing
import os
import sys
import time


def task():
    return os.getpid()


def double(x):
    return 2 * x


def throughput(pool, count, window=1024):
    pending = collections.deque()
    start = time.perf_counter()
    for _ in range(count):
        if len(pending) == window:
            pending.popleft().get()
        pending.append(pool.apply_async(task))
    while pending:
        pending.popleft().get()
    return count / (time.perf_counter() - start)


def round_trip(pool, count):
    start = time.perf_counter()
    for _ in range(count):
        pool.apply(task)
    return (time.perf_counter() - start) / count * 1e6


def whole_map(pool, count):
    numbers = range(count)
    start = time.perf_counter()
    pool.map(double, numbers)
    return time.perf_counter() - start


if __name__ == "__main__":
    job, workers, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    jobs = {"throughput": throughput, "round_trip": round_trip, "map": whole_map}
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        jobs[job](pool, min(count, 1000))
        print(jobs[job](pool, count))
