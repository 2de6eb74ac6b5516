"""The processes of a node: process table, mailboxes, links, monitors and pending calls."""
