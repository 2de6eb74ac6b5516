"""Options for Erlang's distribution over TLS (inet_tls_dist)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def tls_options(directory: str) -> list[str]:
    """Creates a key and a certificate in `directory`. Returns the arguments of `erl`.

    Only the listener has a certificate, and nobody verifies it. Raises LookupError if the program
    `openssl` is not installed.
    """
    if shutil.which("openssl") is None:
        raise LookupError("the program openssl is not installed")
    key, certificate = f"{directory}/key.pem", f"{directory}/certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", key, "-out", certificate, "-days", "1", "-subj", "/CN=bench"]
    subprocess.run(command, check=True, capture_output=True)
    settings = Path(directory) / "tls.config"
    settings.write_text(
        f'[{{server, [{{certfile, "{certificate}"}}, {{keyfile, "{key}"}}]}},\n'
        " {client, [{verify, verify_none}]}].\n"
    )
    return ["-proto_dist", "inet_tls", "-ssl_dist_optfile", str(settings)]
