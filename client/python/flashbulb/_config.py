"""Where the server is and how to speak to it. The only module that reads the environment.

`FLASHBULB_KEY` is the key, `id:secret`. `FLASHBULB_HOST` is the server, `host:port`; `https://host` or port 443 means TLS.
`FLASHBULB_GRAPHICS` says how `flashbulb live` shows pictures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from flashbulb._errors import ConfigurationError

DEFAULT_HOST = "127.0.0.1:50051"
DEFAULT_PORT = 50051
TLS_PORT = 443


@dataclass(frozen=True, slots=True)
class Settings:
    """A server and the key for it.

    `target` is a gRPC target. `roots` is the PEM file of the certificates to trust, None for those of the system.
    """

    target: str
    secure: bool
    key: str | None = field(default=None, repr=False)
    roots: Path | None = None


def load(key: str | None, host: str | None, tls: bool | str | Path | None, *, tokens: bool = False) -> Settings:
    """Settings from the arguments, and from the environment for those that are None. `tokens` are used instead of a key.

    Raises:
        ConfigurationError: the key or the host has the wrong form, or there is a key and a token.
    """
    if tokens and key is not None:
        raise ConfigurationError("give a key or a token, not both")
    key = key if key is not None or tokens else os.environ.get("FLASHBULB_KEY") or None
    host = host if host is not None else os.environ.get("FLASHBULB_HOST") or DEFAULT_HOST
    target, secure = _target(host)
    if isinstance(tls, bool):
        secure = tls
    elif tls is not None:
        secure = True
    return Settings(target, secure, _checked(key), None if tls is None or isinstance(tls, bool) else Path(tls))


def _checked(key: str | None) -> str | None:
    if key is None:
        return None
    key = key.strip()
    identifier, _, secret = key.partition(":")
    if not (identifier and secret and key.isascii() and key.isprintable()):
        raise ConfigurationError("a key has the form id:secret (FLASHBULB_KEY)")
    return key


def _target(host: str) -> tuple[str, bool]:
    host = host.strip()
    if host.startswith(("unix:", "dns:", "ipv4:", "ipv6:")):
        return host, False
    try:
        url = urlsplit(host if "://" in host else f"grpc://{host}")
        name, port = url.hostname, url.port
    except ValueError as error:
        raise ConfigurationError(f"not a host: {host!r} ({error})") from error
    if not name or url.path.strip("/") or url.scheme not in ("grpc", "grpcs", "http", "https"):
        raise ConfigurationError(f"not a host: {host!r}; give host:port or https://host (FLASHBULB_HOST)")
    secure = url.scheme in ("https", "grpcs") or port == TLS_PORT
    port = port or (TLS_PORT if secure else DEFAULT_PORT)
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}", secure


GRAPHICS = ("kitty", "iterm2", "sixel", "blocks", "none")


def terminal_graphics() -> str:
    """How the terminal shows pictures, one of GRAPHICS: FLASHBULB_GRAPHICS if that is set, else as far as the environment tells."""
    chosen = os.environ.get("FLASHBULB_GRAPHICS", "").strip().lower()
    if chosen:
        if chosen not in GRAPHICS:
            raise ConfigurationError(f"FLASHBULB_GRAPHICS must be one of {', '.join(GRAPHICS)}, not {chosen!r}")
        return chosen
    terminal, program = os.environ.get("TERM", ""), os.environ.get("TERM_PROGRAM", "")
    if terminal in ("", "dumb"):
        return "none"
    if os.environ.get("TMUX") or os.environ.get("STY"):
        return "blocks"  # they pass no graphics on
    if os.environ.get("KITTY_WINDOW_ID") or "kitty" in terminal or "ghostty" in terminal:
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty") or os.environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if "sixel" in terminal or terminal in ("foot", "foot-extra", "mlterm") else "blocks"
