#!/bin/sh
# erlang.sh NAME MODULE: runs a stock Erlang node behind a quicdist gateway. MODULE is the source
# file of the gateway's Erlang module; QUICDIST_COOKIE is the cookie.
set -eu
made=$(mktemp -d)
erlc -o "$made" "$2"
exec erl -noinput -name "$1" -setcookie "$QUICDIST_COOKIE" \
    -start_epmd false -epmd_module quicdist_epmd -pa "$made" \
    -kernel inet_dist_use_interface '{127,0,0,1}'
