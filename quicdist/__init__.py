"""quicdist makes a Python program a real node of an Erlang/Elixir cluster, over QUIC."""
