"""What a node's carriers share: who it is, and whom it believes. Alive, unlike the settings."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from quicdist.carriers.trust import files
from quicdist.carriers.trust.errors import CertificateBusy, CertificateError
from quicdist.carriers.trust.identity import Identity
from quicdist.carriers.trust.trust import Trust
from quicdist.carriers.trust.verifiers import Verifier

_RESET_SECRET = "reset-secret"
_SECRET_LENGTH = 32

_log = logging.getLogger("quicdist.trust")


class Credentials:
    """One node's. The files behind its identity are read again when they change: whoever makes a
    connection takes `identity` anew. `hosts` are what a certificate made for it is good for."""

    def __init__(self, identity: Identity | None, trust: Trust, hosts: Sequence[str] = ()) -> None:
        self.trust = trust
        self.verifier: Verifier = trust.verifier()
        self._given = identity
        self._hosts = tuple(hosts)
        self._identity: Identity | None = None
        self._stamp: files.Stamp = ()

    @property
    def identity(self) -> Identity:
        """Who we are now. Raises CertificateError where that was never to be had."""
        current = self._identity
        if current is None:
            return self._take(self._given or Identity.kept(self._hosts))
        if current.files and files.stamp(current.files) != self._stamp:
            try:
                return self._take(current.reloaded())
            except CertificateBusy:
                pass  # an event loop does not wait for it: the next connection looks again
            except CertificateError as error:
                extra = {"event": "certificate_failed", "reason": str(error)}
                _log.error("%s; the certificate used before stays in use", error, extra=extra)
                self._stamp = files.stamp(current.files)
        return current

    async def prepare(self) -> None:
        """Has an identity made, where there is none, by a thread: it may have to wait for another
        process that makes one in the same place. Raises CertificateError."""
        if self._identity is None:
            await asyncio.to_thread(getattr, self, "identity")

    @property
    def reset_secret(self) -> bytes:
        """What stateless resets (RFC 9000, 10.3) are derived from: kept in the state directory for
        all nodes there, whatever certificates they have. Where none can be kept, it is derived from
        our key. Raises CertificateError where that was never to be had."""
        path = files.state_directory() / _RESET_SECRET
        try:
            return files.kept_secret(path, _SECRET_LENGTH)
        except OSError as error:
            key = self.identity.key
            text = "%s cannot be kept: %s; restarts with another certificate are seen late"
            extra = {"event": "reset_secret_not_kept", "path": str(path)}
            _log.info(text, path, error.strerror or error, extra=extra)
            der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            return hashlib.sha256(b"quicdist reset secret" + der).digest()

    @property
    def expires(self) -> datetime.datetime | None:
        """When our certificate ends to be valid, in UTC; None where none was needed yet."""
        return None if self._identity is None else self.identity.expires

    def say_objection(self, node: str) -> None:
        """Warns of a certificate that was given, and that is not this node's."""
        objection = None if self._given is None else self._given.objection(node)
        if objection is not None:
            extra = {"event": "certificate_not_ours", "node": node, "reason": objection}
            _log.warning("%s", objection, extra=extra)

    def _take(self, identity: Identity) -> Identity:
        if self._identity is not None and identity != self._identity:
            key = identity.fingerprint
            extra = {"event": "certificate_renewed", "fingerprint": key}
            _log.info("a new certificate is in use; its key is %s", key, extra=extra)
        self._identity = identity
        self._stamp = files.stamp(identity.files)
        return identity
