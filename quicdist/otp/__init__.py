"""OTP's behaviours and services in Python, on top of a node.

`gen_server` (servers with a state), `supervisor` (who starts them again), `pg` (process groups),
`global_names` (names in the cluster), `pubsub` (topics, as Phoenix.PubSub has them), `logger`
(what Python logs, in the log of a BEAM node), `net_adm` (who is on a host); `sys` is what a remote
`:sys` asks of servers.
"""

from quicdist.otp.gen_server import NO_REPLY, GenServer, InitError, Stop, start
from quicdist.otp.supervisor import Child, Restart, Strategy, Supervisor

__all__ = [
    "NO_REPLY",
    "Child",
    "GenServer",
    "InitError",
    "Restart",
    "Stop",
    "Strategy",
    "Supervisor",
    "start",
]
