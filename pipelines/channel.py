"""The news of a training, on their way from rank 0 to the driver.

A module of its own: Ray gives it a process, which imports what the module imports, and nothing of torch is needed.
"""

from __future__ import annotations


class Channel:
    """Rank 0 puts its news here; the driver takes them. Lives in an actor of its own."""

    def __init__(self) -> None:
        self.news: list[tuple[int, int, str, dict[str, float]]] = []

    def put(self, step: int, total: int, note: str, metrics: dict[str, float]) -> None:
        self.news.append((step, total, note, metrics))

    def take(self) -> list[tuple[int, int, str, dict[str, float]]]:
        news, self.news = self.news, []
        return news
