"""The words in which a prediction is told of, between processes and in frames."""

from typing import Literal

Source = Literal["stdout", "stderr"]
Mode = Literal["replace", "increment", "append"]
Status = Literal["succeeded", "failed", "canceled"]
