"""The process that runs a handler: `python -m tidegate.worker.child FD`. The gateway imports nothing from here.

Shape: the main thread's loop reads the socket; asynchronous handlers are tasks on it, synchronous ones have long-lived threads.
Whoever makes a message sends it. The process belongs to the user's code, so little is imported and any thread may print.
"""
