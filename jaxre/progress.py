"""A bar on the error stream: done, rate and time left."""

from __future__ import annotations

import sys
import time


class Progress:
    """Shows itself when `wanted`, by default only where the error stream is a terminal; `total` None when not known."""

    def __init__(self, total: int | None, wanted: bool | None = None) -> None:
        self.total, self.done, self.shown = total, 0, 0.0
        self.stream = sys.stderr
        self.wanted = self.stream.isatty() if wanted is None else wanted
        self.start = time.monotonic()

    def advance(self, count: int) -> None:
        """`count` datasets more are done."""
        self.done += count
        now = time.monotonic()
        if self.wanted and now - self.shown > 0.1:
            self.shown = now
            self._show(now)

    def close(self) -> None:
        """The last line, and an end to it."""
        if self.wanted:
            self._show(time.monotonic())
            self.stream.write("\n")
            self.stream.flush()

    def _show(self, now: float) -> None:
        rate = self.done / max(now - self.start, 1e-9)
        text = f"{self.done:,} datasets, {rate:,.0f} a second"
        if self.total:
            share = self.done / self.total
            left = (self.total - self.done) / rate if rate > 0 else float("inf")
            bar = "#" * int(30 * share)
            text = f"[{bar:<30}] {self.done:,} of {self.total:,} datasets, {rate:,.0f} a second, {left:,.0f} s left"
        self.stream.write(f"\r{text:<100}")
        self.stream.flush()
