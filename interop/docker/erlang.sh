#!/bin/sh
# erlang.sh NAME MODULE: a stock Erlang node that a quicdist gateway stands for. MODULE is the
# source of the gateway's Erlang module; the cookie is in QUICDIST_COOKIE.
set -eu
made=$(mktemp -d)
erlc -o "$made" "$2"
exec erl -noinput -name "$1" -setcookie "$QUICDIST_COOKIE" \
    -start_epmd false -epmd_module quicdist_epmd -pa "$made" \
    -kernel inet_dist_use_interface '{127,0,0,1}'
