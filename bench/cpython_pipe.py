"""CPython's multiprocessing.Pipe at the same jobs: python3 cpython_pipe.py JOB COUNT BYTES.

Prints one number: microseconds per round trip (hot, asleep), or seconds per message (large).
"""
import multiprocessing
import sys
import time


def echo(end):
    try:
        while True:
            end.send_bytes(end.recv_bytes())
    except EOFError:
        pass


def swallow(end, count):
    for _ in range(count):
        end.recv_bytes()
        end.send_bytes(b"x")


def main():
    job, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ours, theirs = multiprocessing.Pipe()
    target, args = (swallow, (theirs, count)) if job == "large" else (echo, (theirs,))
    child = multiprocessing.get_context("fork").Process(target=target, args=args)
    child.start()
    theirs.close()
    message = b"x" * size
    spent = 0.0
    for _ in range(count):
        if job == "asleep":
            time.sleep(0.001)
        start = time.perf_counter()
        ours.send_bytes(message)
        ours.recv_bytes()
        spent += time.perf_counter() - start
    child.terminate()  # it has a copy of our end itself, so that it would see no end
    child.join()
    print(spent / count * (1 if job == "large" else 1e6))


if __name__ == "__main__":
    main()
