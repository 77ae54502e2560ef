"""What can be told to be wrong with a role's settings before anything is opened: all of it, at once."""

from __future__ import annotations

import ssl
import sys

from flashbulb_server.api.keys import Keys
from flashbulb_server.config import ApiSettings, Settings
from flashbulb_server.errors import Misconfigured
from flashbulb_server.wire.listening import listen_problems


def checked_keys(settings: Settings) -> Keys:
    """The keys of an api. Raises Misconfigured with all that keeps it from serving: addresses, certificate, keys."""
    listens = {"FLASHBULB_HTTP__LISTEN": settings.http.listen, "FLASHBULB_API__LISTEN": settings.api.listen}
    problems = listen_problems({variable: address for variable, address in listens.items() if address})
    problems += _tls_problems(settings.api)
    keys = Keys({})
    try:
        keys = Keys.load(settings.api)
    except ValueError as err:
        problems.append(str(err))
    else:
        problems += _key_problems(keys, settings)
    if problems:
        raise Misconfigured(*problems)
    return keys


def check_worker(settings: Settings) -> None:
    """Raises Misconfigured with what can be told before anything is loaded."""
    problems = listen_problems({"FLASHBULB_WORKER__LISTEN": settings.worker.listen})
    if settings.worker.spare and sys.platform != "linux":
        problems.append("FLASHBULB_WORKER__SPARE is set, which works on Linux alone")
    if problems:
        raise Misconfigured(*problems)


def _key_problems(keys: Keys, settings: Settings) -> list[str]:
    if not keys:
        return [
            "no keys: set FLASHBULB_API__KEYS or FLASHBULB_API__KEYS_FILE; `flashbulb-server keys create` makes one"
        ]
    proxy = settings.http.proxy_key_id
    return [f"FLASHBULB_HTTP__PROXY_KEY_ID names no key: {proxy!r}"] if proxy and proxy not in keys else []


def _tls_problems(settings: ApiSettings) -> list[str]:
    if settings.tls_certificate is None or settings.tls_key is None:
        return []
    try:
        settings.tls_certificate.read_bytes()  # by itself: what loads both does not say which is missing
        settings.tls_key.read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        return [f"FLASHBULB_API__TLS_CERTIFICATE and FLASHBULB_API__TLS_KEY: {where}{err.strerror or err}"]
    return []
