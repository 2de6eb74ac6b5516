//! The settings of an engine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{MtuDiscoveryConfig, QlogStream, TransportConfig, VarInt};

use crate::address::is_loopback;
use crate::control::{Factory, Shared};

/// UDP payload that every QUIC path carries (RFC 9000, 14).
pub const BASE: u16 = 1200;

/// UDP payload of Ethernet with IPv6.
const ETHERNET: u16 = 1452;

/// As aioquic's: a first datagram that is not answered is repeated after twice this time.
const INITIAL_RTT: Duration = Duration::from_millis(100);

pub struct Settings {
    pub stream_window: u64,
    pub max_streams: u32,
    pub idle_timeout: f64,
    pub max_datagram_size: u16,
    pub max_tls_message: usize,
    pub congestion: String,
    pub max_in_flight: f64,
}

impl Settings {
    /// The size of the first datagrams.
    pub fn first_size(&self) -> u16 {
        self.max_datagram_size.min(BASE)
    }

    pub fn transport(
        &self,
        remote: &SocketAddr,
        receive_window: u64,
        control: Shared,
        qlog: Option<QlogStream>,
    ) -> TransportConfig {
        let mut config = TransportConfig::default();
        let idle = Duration::from_secs_f64(self.idle_timeout);
        config
            .max_concurrent_bidi_streams(self.max_streams.into())
            .max_concurrent_uni_streams(0u32.into())
            .max_idle_timeout(idle.try_into().ok())
            .receive_window(VarInt::from_u64(receive_window).unwrap_or(VarInt::MAX))
            .stream_receive_window(VarInt::from_u64(self.stream_window).unwrap_or(VarInt::MAX))
            .send_window(u64::MAX)
            .initial_rtt(INITIAL_RTT)
            .crypto_buffer_size(self.max_tls_message)
            .datagram_receive_buffer_size(None)
            .initial_mtu(self.first_size())
            .mtu_discovery_config(self.search(remote))
            .congestion_controller_factory(Arc::new(Factory(control)))
            .qlog_stream(qlog);
        config
    }

    fn search(&self, remote: &SocketAddr) -> Option<MtuDiscoveryConfig> {
        let most = if is_loopback(remote) {
            self.max_datagram_size
        } else {
            self.max_datagram_size.min(ETHERNET)
        };
        if most <= BASE {
            return None;
        }
        let mut search = MtuDiscoveryConfig::default();
        search.upper_bound(most);
        Some(search)
    }
}
