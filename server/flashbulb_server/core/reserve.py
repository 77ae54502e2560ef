"""The share of the device's time that is kept for frames of live sessions, and what is left to everything else. Pure.

An account in seconds. Every second of a frame's own time earns the others some time; what they add to calls that they share with frames,
and the calls that they make by themselves, are paid from it. So frames are slowed by a bounded share, and nothing else starves.
"""

from __future__ import annotations

LIVE_SECONDS = 0.5
"""How long after its last frame a session still counts as live: until then nothing that takes long is begun."""

CALM = 0.25
"""Share of a frame's own time that a call without frames may take while a session is live: the next frame may have to wait for it."""


_ROUNDING = 1e-9
"""Share of a price that many small earnings may fall short of it."""


class Reserve:
    """`share`: of the device's time, above 0 and below 1, for frames while there are any."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._gain = (1 - share) / share
        self._taken = 0.0
        self._wanted = 0.0
        self._last_frame: float | None = None
        self._frame_seconds = 0.0
        self.credit = 0.0
        """Seconds that the others may use now; below 0 while they pay back."""

    def look(self, now: float, *, frames: bool) -> None:
        """Tells whether there are frames, waiting or in flight."""
        if frames:
            self._last_frame = now
        elif self._last_frame is not None and now - self._last_frame > LIVE_SECONDS:
            self._last_frame = None
            self._taken = self.credit = 0.0

    @property
    def live(self) -> bool:
        """Whether a frame may come at any moment."""
        return self._last_frame is not None

    @property
    def calm(self) -> float | None:
        """Seconds that a call without frames may take, if it can be so short. None when no session is live."""
        return self._frame_seconds * CALM if self.live else None

    def affords(self, seconds: float) -> bool:
        """Whether the others may make a call of so many seconds now."""
        return self.credit >= seconds * (1 - _ROUNDING)

    def budget(self, alone: float) -> float:
        """Seconds that the others may add to a call of frames that takes `alone`."""
        return self.credit + self._gain * alone

    @property
    def slowdown(self) -> float:
        """How many times longer the others take than without frames, by what frames took lately."""
        return 1 / (1 - min(self._taken, self._share))

    def earn(self, alone: float, *, steps: int, extra: float, wanted: float) -> None:
        """A call of frames was made, `alone` of it their own time and `extra` that of others; a frame takes `steps` of them.

        `wanted`: the price of what the others want next, 0.0 if they want nothing: so much may be saved and no more.
        """
        self._frame_seconds = steps * alone
        self._wanted = wanted
        self._take(alone)
        if wanted or extra:
            earned = self._gain * alone
            self.credit = min(self.credit + earned, max(wanted, earned)) - extra

    def earn_finish(self, seconds: float) -> None:
        """Frames were decoded."""
        self._take(seconds)
        self.credit = min(self.credit + self._gain * seconds, max(self._wanted, self.credit))

    def _take(self, seconds: float) -> None:
        self._taken += min(1.0, seconds / LIVE_SECONDS) * (1 - self._taken)

    def spend(self, seconds: float) -> None:
        """The others used the device by themselves. Time in which there were no frames is not held against them for longer than that."""
        if self.live:
            self.credit = max(self.credit, 0.0) - seconds
            self._taken -= min(1.0, seconds / LIVE_SECONDS) * self._taken
