"""What a stream costs before anything is done with it. Published: 200 tokens end to end in memory take 13.9 µs in Rust."""

from pytest_benchmark.fixture import BenchmarkFixture

from tidegate.dialect.openai_chat import OpenAIChat
from tidegate.exchange import Usage
from tidegate.wire import Frame
from tidegate.wire.sse import SseFramer, split

CHUNK = (
    b'data: {"id":"chatcmpl-B9MBs8CjcvOLU2jLn4n570S5qMJKc","object":"chat.completion.chunk","created":1741569952,'
    b'"model":"gpt-4o-mini","system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,"delta":{"content":" tide"},'
    b'"finish_reason":null}],"usage":null}\n\n'
)
LAST = CHUNK.replace(b'"finish_reason":null', b'"finish_reason":"stop"')
SPENT = CHUNK.replace(b'"usage":null', b'"usage":{"prompt_tokens":19,"completion_tokens":34}')
BLOCK = CHUNK * 34


def ready() -> SseFramer:
    framer = SseFramer()
    framer.take(CHUNK)
    return framer


def test_feed_splits_a_block_of_34_frames(benchmark: BenchmarkFixture) -> None:
    frames = benchmark(ready().feed, BLOCK)
    assert [frame.raw for frame in frames] == [CHUNK] * 34


def test_take_passes_a_block_of_34_frames(benchmark: BenchmarkFixture) -> None:
    assert benchmark(ready().take, BLOCK) is BLOCK


def test_take_passes_one_frame(benchmark: BenchmarkFixture) -> None:
    assert benchmark(ready().take, CHUNK) is CHUNK


def test_take_joins_a_frame_cut_in_two(benchmark: BenchmarkFixture) -> None:
    framer = ready()

    def halves() -> bytes:
        return framer.take(CHUNK[:100]) + framer.take(CHUNK[100:])

    assert benchmark(halves) == CHUNK


def test_split_looks_into_a_block_of_34_frames(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(split, BLOCK)) == 34


def test_feed_splits_a_block_of_34_frames_with_crlf(benchmark: BenchmarkFixture) -> None:
    block = BLOCK.replace(b"\n", b"\r\n")
    assert len(benchmark(ready().feed, block)) == 34


def test_the_search_for_hits_passes_over_a_plain_chunk(benchmark: BenchmarkFixture) -> None:
    assert 230 <= len(CHUNK) <= 270
    assert benchmark(OpenAIChat.hit, CHUNK, 0) == -1
    assert OpenAIChat.hit(LAST, 0) >= 0


def test_the_search_for_hits_passes_over_34_plain_chunks(benchmark: BenchmarkFixture) -> None:
    assert benchmark(OpenAIChat.hit, BLOCK, 0) == -1


def test_notice_reads_usage(benchmark: BenchmarkFixture) -> None:
    notice = benchmark(OpenAIChat.notice, Frame(SPENT))
    assert notice.usage == Usage(19, 34)


def test_look_judges_the_first_content(benchmark: BenchmarkFixture) -> None:
    sight, error = benchmark(OpenAIChat.look, Frame(CHUNK))
    assert (sight.name, error) == ("CONTENT", None)
