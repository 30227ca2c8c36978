"""The bounded history of a stream: late subscribers, resumption, slow readers. Knows frames and sinks, not what they say."""
