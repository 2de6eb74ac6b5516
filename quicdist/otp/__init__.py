"""OTP behaviours and services in Python.

- `gen_server`: servers with a state, as `gen_server` in OTP
- `supervisor`: supervision trees
- `pg`: process groups
- `global_names`: cluster-wide names, as `global` in OTP
- `pubsub`: topics, compatible with Phoenix.PubSub
- `logger`: a `logging` handler that writes to the log of a BEAM node
- `net_adm`: the nodes of a host, from its EPMD
- `sys`: system messages, as sent by `:sys` on other nodes
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
