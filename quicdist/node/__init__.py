"""What a BEAM node is, in Python: processes, links, monitors, connections, calls.

From the face down: `node` puts it together; `mailbox` and `spawn` are processes that run Python
code, `service` those of the node itself (`net_kernel`, `serving`, `group_leader`, `calls`), all of
them a `process` with its `links`. `system` knows who is who and hands signals around;
`connections` makes links to other nodes, each a `peer` with its `outbox`; `level` says when a
receiver holds one back. `book` chooses the carrier. `names`, `cookie`, `ids`, `limits`, `events`,
`exports`, `reasons` and `errors` are what their names say.
"""
