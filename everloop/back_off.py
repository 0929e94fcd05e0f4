"""How long to wait after failures: a first pause, doubled by each further one, up to a limit."""


class BackOff:
    """Count failures in a row and give the pause after each.

    For 1 and 8 seconds the pauses are 1, 2, 4, 8, 8, …; a success starts over.
    """

    def __init__(self, first_seconds: float, most_seconds: float) -> None:
        self.failures = 0
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds

    def failed(self) -> float:
        """Count a failure; gives the seconds to wait."""
        # The exponent is bounded: a float has no 2.0 ** 5000.
        pause = self._first_seconds * 2.0 ** min(self.failures, 60)
        self.failures += 1
        return min(pause, self._most_seconds)

    def succeeded(self) -> None:
        """Start over with the first pause."""
        self.failures = 0
