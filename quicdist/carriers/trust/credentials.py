"""The identity and the verifier that the carriers of a node share."""

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
    """The identity and the verifier of one node.

    The files of the identity are read again when they change, so each new connection must read
    `identity` again. `hosts` are the hosts for which a generated certificate is valid.
    """

    def __init__(self, identity: Identity | None, trust: Trust, hosts: Sequence[str] = ()) -> None:
        self.trust = trust
        self.verifier: Verifier = trust.verifier()
        self._given = identity
        self._hosts = tuple(hosts)
        self._identity: Identity | None = None
        self._stamp: files.Stamp = ()

    @property
    def identity(self) -> Identity:
        """The current identity. Raises CertificateError if it could never be loaded."""
        current = self._identity
        if current is None:
            return self._take(self._given or Identity.kept(self._hosts))
        if current.files and files.stamp(current.files) != self._stamp:
            try:
                return self._take(current.reloaded())
            except CertificateBusy:
                pass  # an event loop must not wait; the next connection tries again
            except CertificateError as error:
                extra = {"event": "certificate_failed", "reason": str(error)}
                _log.error("%s; the previous certificate stays in use", error, extra=extra)
                self._stamp = files.stamp(current.files)
        return current

    async def prepare(self) -> None:
        """Loads or creates the identity in a thread, if it is not loaded yet.

        This may wait for another process that creates an identity in the same directory. Raises
        CertificateError if the identity cannot be loaded or created.
        """
        if self._identity is None:
            await asyncio.to_thread(getattr, self, "identity")

    @property
    def reset_secret(self) -> bytes:
        """The secret from which stateless reset tokens (RFC 9000, 10.3) are derived.

        It is stored in the state directory and shared by all nodes there. If it cannot be stored,
        it is derived from the private key. Raises CertificateError if there is no state directory
        or no identity.
        """
        path = files.state_directory() / _RESET_SECRET
        try:
            return files.kept_secret(path, _SECRET_LENGTH)
        except OSError as error:
            key = self.identity.key
            text = "cannot store %s: %s; peers detect a restart with another certificate late"
            extra = {"event": "reset_secret_not_kept", "path": str(path)}
            _log.info(text, path, error.strerror or error, extra=extra)
            der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            return hashlib.sha256(b"quicdist reset secret" + der).digest()

    @property
    def expires(self) -> datetime.datetime | None:
        """When the certificate expires, in UTC; None if no identity is loaded yet."""
        return None if self._identity is None else self.identity.expires

    def say_objection(self, node: str) -> None:
        """Logs a warning if the configured certificate is not valid for this node."""
        objection = None if self._given is None else self._given.objection(node)
        if objection is not None:
            extra = {"event": "certificate_not_ours", "node": node, "reason": objection}
            _log.warning("%s", objection, extra=extra)

    def _take(self, identity: Identity) -> Identity:
        if self._identity is not None and identity != self._identity:
            key = identity.fingerprint
            extra = {"event": "certificate_renewed", "fingerprint": key}
            _log.info("using a new certificate with the key %s", key, extra=extra)
        self._identity = identity
        self._stamp = files.stamp(identity.files)
        return identity
