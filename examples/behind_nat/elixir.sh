#!/bin/sh
# elixir.sh NAME MODULE SCRIPT: runs a stock Elixir node behind a quicdist gateway. MODULE is the source
# of the gateway's Erlang module; QUICDIST_COOKIE is the cookie.
set -eu
made=$(mktemp -d)
erlc -o "$made" "$2"
exec elixir --name "$1" --cookie "$QUICDIST_COOKIE" --no-halt \
    --erl "-start_epmd false -epmd_module quicdist_epmd -pa $made -kernel inet_dist_use_interface {127,0,0,1}" \
    "$3"
