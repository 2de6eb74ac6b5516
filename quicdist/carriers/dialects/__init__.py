"""How each carrier lays packets on its streams: one pure object a connection, one module each."""
