"""CPython's multiprocessing.Lock at the same jobs: python3 cpython_locks.py JOB COUNT [PROCESSES].

Prints nanoseconds per lock and unlock.
"""
import multiprocessing
import sys
import time


def lock_often(lock, count):
    for _ in range(count):
        lock.acquire()
        lock.release()


def main():
    job, count = sys.argv[1], int(sys.argv[2])
    context = multiprocessing.get_context("fork")
    lock = context.Lock()
    start = time.perf_counter()
    if job == "alone":
        lock_often(lock, count)
    else:
        processes = int(sys.argv[3])
        children = [
            context.Process(target=lock_often, args=(lock, count // processes))
            for _ in range(processes)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
    print((time.perf_counter() - start) / count * 1e9)


if __name__ == "__main__":
    main()
