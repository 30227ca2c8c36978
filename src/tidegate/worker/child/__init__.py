"""The process that runs a handler: `python -m tidegate.worker.child FD`. The gateway imports nothing from here.

Shape: asynchronous handlers are tasks on the main thread's loop, synchronous ones have long-lived threads. The loop reads the socket while
anything runs; while nothing does, the thread that was the last to work does so.
Whoever makes a message sends it. The process belongs to the user's code, so little is imported and any thread may print.
"""
