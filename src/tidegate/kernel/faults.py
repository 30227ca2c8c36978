"""What a log may say of an exception: where it came from, never its text, which may quote a prompt."""


def where(error: BaseException) -> str:
    """Give the functions and lines that an exception came through, from the outermost."""
    trace, frames = error.__traceback__, []
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(frames)
