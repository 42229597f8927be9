"""How long the sequences of a batch really are: memory is planned for the longest, time for what data usually brings."""

from __future__ import annotations

from finetune_operator.api.inspection import TokenHistogram


def usual_longest(tokens: TokenHistogram, batch: int, cut: int) -> int:
    """Return the expected length of the longest of `batch` rows, which the others are padded to; rows are cut to `cut` tokens.

    Rows are drawn independently from the histogram, each as long as the middle of its bucket.
    """
    rows = sum(tokens.counts)
    if rows == 0:
        return cut
    expected, seen, share = 0.0, 0, 0.0
    for low, high, count in zip(tokens.edges, tokens.edges[1:], tokens.counts, strict=False):
        if count == 0:
            continue
        seen += count
        up_to = (seen / rows) ** batch
        middle = min((low + min(high - 1, tokens.maximum)) / 2, cut)
        expected += (up_to - share) * middle
        share = up_to
    return max(1, min(round(expected), cut))
