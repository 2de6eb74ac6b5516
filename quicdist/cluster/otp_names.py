"""Names under which OTP registers its own processes. No wildcard of a rule may match one.

The list contains the names in the .app files of OTP 25 to 29, the output of `registered()` there
and in Elixir, tools that start a process on demand (dbg, cover, eprof), and the module that a
gateway loads into its node. A process with such a name may load code, spawn processes, stop the
node or read files for any caller.

This list is a second line of defense. The first is that rules without a literal prefix are rejected
(`access_rules.check_name_pattern`), independent of the OTP release.
"""

from __future__ import annotations

REX = "rex"
NET_KERNEL = "net_kernel"
GLOBAL = "global_name_server"

OTP_NAMES: frozenset[str] = frozenset(
    f"""
    {REX} {NET_KERNEL}
    alarm_handler application_controller asn1_ns asn1db auth boot_server code_server cpu_sup
    ddll_server dets dets_sup diameter_config diameter_config_sup diameter_dist diameter_misc_sup
    diameter_peer diameter_peer_fsm_sup diameter_reg diameter_service_sup diameter_stats
    diameter_sup diameter_sync diameter_transport_sup diameter_watchdog_sup disk_log_server
    disk_log_sup disksup dist_ac dtls_connection_sup dtls_connection_sup_dist dtls_listener_sup
    dtls_server_session_cache_sup dtls_server_sup dtls_sup erl_epmd erl_prim_loader erl_reply
    erl_signal_server error_logger erts_code_purger file_server_2 fixtable_server ftp_sup
    global_group global_group_check global_name_server heart httpc_handler_sup httpc_manager
    httpc_profile_sup httpc_sup httpd_sup inet_db inets_sup init kernel_config kernel_refc
    kernel_safe_sup kernel_sup logger logger_handler_watcher logger_proxy logger_std_h_default
    logger_std_h_ssl_handler logger_sup memsup mnesia_checkpoint_sup mnesia_controller
    mnesia_dumper_load_regulator mnesia_event mnesia_ext_sup mnesia_fallback mnesia_kernel_sup
    mnesia_late_loader mnesia_locker mnesia_monitor mnesia_recover mnesia_rpc mnesia_subscr
    mnesia_substr mnesia_sup mnesia_tm net_sup odbc_sup os_mon_sup os_mon_sysinfo os_server
    os_sup_server pg pool_master quicdist_epmd quicdist_sup release_handler rex_proxy_user
    rsh_starter
    runtime_tools_sup sasl_safe_sup sasl_sup snmp_app_sup socket_registry ssh_sup sshc_sup sshd_sup
    ssl_admin_sup ssl_connection_sup ssl_dist_admin_sup ssl_dist_connection_sup ssl_dist_sup
    ssl_listen_tracker_sup ssl_listen_tracker_sup_dist ssl_manager ssl_manager_dist ssl_pem_cache
    ssl_pem_cache_dist ssl_server_session_cache_sup ssl_sup ssl_upgrade_server_session_cache_sup
    ssl_upgrade_server_session_cache_sup_dist standard_error standard_error_sup take_over_monitor
    tftp_sup timer_server tls_client_ticket_store tls_connection_sup tls_dist_connection_sup
    tls_dist_server_sup tls_dist_sup tls_server_session_ticket_sup
    tls_server_session_ticket_sup_dist tls_server_sup tls_sup user user_drv user_drv_reader
    user_drv_writer
    Elixir.IEx.Broker Elixir.IEx.Config Elixir.IEx.Pry Elixir.IEx.Supervisor Elixir.Logger
    Elixir.Logger.BackendSupervisor Elixir.Logger.Supervisor Elixir.Logger.Watcher
    elixir_code_server elixir_config elixir_sup
    cover_server crashdump_viewer_server data_publisher dbg dbg_iserver dbg_wx_mon debugger
    eprof eprof_server etop etop_server etop_txt fprof fprof_server int observer observer_backend
    percept_db percept_db_stop ct_logs ct_util_server ct_config_server test_server appmon appmon_a
    reltool_sup rex_nodes_observer ssh_lsocket_sup standard_error_writer ttb ttb_meta_tracer xref
    user_sup wx_object Elixir.Mix.ProjectStack Elixir.Mix.State Elixir.Mix.TasksServer
    Elixir.ExUnit.Server Elixir.ExUnit.OnExitHandler Elixir.ExUnit.CaptureServer
    Elixir.EEx.Supervisor Elixir.Hex.State
    """.split()
)
