"""Every command of `rabbitmqctl` on a broker behind a gateway, in a cluster of two.

The exit codes are those of a cluster over TCP.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.gateway.amqp import Amqp
from tests.gateway.brokers import NEEDS_RABBITMQ, SCRIPTS, Broker, cluster
from tests.support.gatewayed import GatewayThread
from tests.support.named import RealEpmd
from tests.support.waiting import PATIENCE

pytestmark = NEEDS_RABBITMQ

# The order matters: most commands use what earlier ones have created. Names in braces stand for
# values of the cluster.
COMMANDS = """
autocomplete list_q
help list_queues
version
await_startup
await_online_nodes 2
cluster_status
rotate_logs => 69
wait $pid_file
ping
status
report
environment
schema_info
add_user u secret
authenticate_user u secret
change_password u other
clear_password u
set_user_limits u {"max-connections":10}
list_user_limits
clear_user_limits u all
set_user_tags u administrator
list_users
set_permissions u .* .* .*
list_permissions
list_user_permissions u
set_topic_permissions u amq.topic .* .*
list_topic_permissions
list_user_topic_permissions u
clear_topic_permissions u
clear_permissions u
delete_user u
add_vhost v
list_vhosts
set_vhost_limits -p v {"max-queues":5}
list_vhost_limits
clear_vhost_limits -p v
set_vhost_tags v a
restart_vhost -p v
trace_on -p v
trace_off -p v
delete_vhost v
list_bindings
list_channels
list_ciphers
list_connections
list_consumers
list_exchanges
list_hashes
list_node_auth_attempt_stats
list_queues
list_queues --online
list_unresponsive_queues
set_global_parameter g "x"
list_global_parameters
clear_global_parameter g
set_parameter vhost-limits limits {"max-queues":100}
list_parameters
clear_parameter vhost-limits limits
set_policy p ^x {"max-length":5}
list_policies
clear_policy p
set_operator_policy p ^x {"max-length":5}
list_operator_policies
clear_operator_policy p
encode <<"x">> secret
decode $encrypted secret
set_cluster_name x
set_disk_free_limit 50MB
set_log_level debug
set_vm_memory_high_watermark 0.5
export_definitions $directory/definitions.json
import_definitions $directory/definitions.json
enable_feature_flag all
list_feature_flags
eval node().
eval_file $directory/file.erl
exec IO.puts(node())
force_gc
suspend_listeners
resume_listeners
set_policy mirror ^queue {"ha-mode":"all"}
sync_queue queue-0
cancel_sync_queue queue-0
clear_policy mirror
purge_queue queue-0
delete_queue queue-0
close_connection $connection reason
close_all_user_connections guest reason
close_all_connections reason
hipe_compile $directory
node_health_check
-n $first status
-n $first list_connections
-n $first eval node().
-n none@127.0.0.9 ping => 69
rename_cluster_node a@b c@d => 64
stop_app
update_cluster_nodes $first
change_cluster_node_type ram
start_app
stop_app
change_cluster_node_type disc
reset
join_cluster $first
force_boot
start_app
stop_app
-n $first forget_cluster_node $second
force_reset
start_app
shutdown
"""
"""One command a line, with the exit code if it is not 0: 69 EX_UNAVAILABLE, 64 EX_USAGE."""

NOT_RUN = {"stop"}
"""Does what `shutdown` does, and waits for a process of this host."""


def _name(line: str) -> str:
    words = line.split(" ")
    return words[2] if words[0] == "-n" else words[0]


def test_the_table_names_every_command() -> None:
    with RealEpmd() as epmd:  # without one, the command starts `epmd -daemon`, which stays
        usage = subprocess.run(
            [str(SCRIPTS / "rabbitmqctl"), "help"],
            env={**os.environ, "ERL_EPMD_PORT": str(epmd.port)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    known = set(re.findall(r"^   ([a-z_]+) ", usage, re.MULTILINE))
    assert len(known) > 90
    assert known - NOT_RUN == {_name(line) for line in COMMANDS.split("\n") if line}


@pytest.mark.timeout(900)
def test_every_command_ends_as_over_tcp(tmp_path: Path) -> None:
    (tmp_path / "file.erl").write_text("node().")
    with cluster(tmp_path, 2, named=GatewayThread) as (first, second), ExitStack() as stack:
        for number, broker in enumerate((first, second)):
            client = Amqp(broker.amqp_port, PATIENCE)
            stack.callback(client.close)
            client.declare(f"queue-{number}", {"x-queue-type": "classic"})
            client.consume(f"queue-{number}")
        values: dict[str, Callable[[], str]] = {
            "$first": lambda: first.name,
            "$second": lambda: second.name,
            "$directory": lambda: str(tmp_path),
            "$pid_file": lambda: str(second.pid_file),
            "$connection": lambda: _a_connection(second),
            "$encrypted": lambda: second.control("-q", "encode", '<<"x">>', "secret").strip(),
        }
        ended = {}
        for line in filter(None, COMMANDS.split("\n")):
            command, _, status = line.partition(" => ")
            words = command.split(" ")
            for name, value in values.items():
                if name in command:
                    words = [word.replace(name, value()) for word in words]
            done = second.run(*words)
            if done.returncode != int(status or 0):
                ended[command] = f"{done.returncode}: {done.stdout}{done.stderr}"
        assert ended == {}


def _a_connection(broker: Broker) -> str:
    return broker.control("-q", "list_connections", "pid").splitlines()[-1]
