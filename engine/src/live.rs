//! One connection: quinn-proto's state and what is kept beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, ConnectionId, DatagramEvent, Dir, EcnCodepoint,
    Endpoint, EndpointConfig, Event, ServerConfig, Side, StreamEvent, Transmit, VarInt,
};

use crate::address::{Path, Paths};
use crate::budget::Budget;
use crate::clock::Clock;
use crate::control::Shared;
use crate::ending::Ending;
use crate::ids::{self, Generator, Id, Issued, ResetKey};
use crate::incoming::{Arrival, Incoming};
use crate::outgoing::{Outgoing, is_bidirectional, is_local, stream_id};
use crate::part::Part;
use crate::qlog;
use crate::retry::{Checked, TokenKey};
use crate::sent::SharedSent;
use crate::settings::{BASE, Settings};
use crate::tls;

/// The kernel takes no more in one call (udp(7), UDP_SEGMENT).
const MOST_BYTES: usize = 60_000;
const MOST_SEGMENTS: usize = 64;

/// How a connection begins.
pub enum Start {
    Dialer {
        config: tls::ClientConfig,
        host: String,
        original: Vec<u8>,
    },
    /// `is_checked`: the original destination connection ID is from a token that was checked.
    Listener {
        config: Arc<tls::ServerConfig>,
        original: Vec<u8>,
        is_checked: bool,
    },
}

/// What happened, in order.
pub enum Happened {
    Completed(String),
    Issued(Id),
    Retired(Id),
    Arrived(Arrival),
}

/// Datagrams of one size on one path; the last may be shorter.
pub struct Burst {
    pub size: usize,
    pub path: Path,
    /// The index of the path.
    pub index: usize,
}

/// (acknowledged, sent, pacing rate, round trip, least round trip, datagram size, timer, more to
/// send, something to drain, datagrams are to be sent with ECT(0), data waits for the peer's credit).
pub type Progress = (u64, u64, f64, Option<f64>, f64, u16, Option<f64>, bool, bool, bool, bool);

pub struct Live {
    settings: Arc<Settings>,
    qlog: Option<Arc<Py<PyAny>>>,
    clock: Clock,
    endpoint: Endpoint,
    active: Option<(ConnectionHandle, Connection)>,
    start: Option<Start>,
    receive_window: u64,
    token_key: TokenKey,
    ids: Issued,
    /// IDs that were reported, and those of them that are in use.
    reported: usize,
    in_use: Vec<Id>,
    paths: Paths,
    path: usize,
    control: Shared,
    outgoing: Outgoing,
    incoming: Incoming,
    happened: Vec<Happened>,
    ending: Option<Ending>,
    /// The datagram that rejects a dialer whose first one was no beginning for TLS.
    rejection: Vec<u8>,
    is_connected: bool,
    is_confirmed: bool,
    /// The draining period has ended (RFC 9000, 10.2.2).
    is_drained: bool,
    /// One frame for each piece of data.
    is_whole: bool,
    budget: Budget,
    now: Instant,
    has_more: bool,
    /// The pacer was asked last and let nothing leave.
    is_paced: bool,
    /// quinn-proto sends with ECT(0) on the path in use.
    marks: bool,
    out: Vec<u8>,
}

impl Live {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        settings: Arc<Settings>,
        clock: Clock,
        start: Start,
        reset_key: ResetKey,
        receive_window: u64,
        control: Shared,
        sent: SharedSent,
        qlog: Option<Arc<Py<PyAny>>>,
    ) -> Self {
        let first = ids::random();
        let issued = Issued::default();
        issued.lock().unwrap().push(first);
        let noted = issued.clone();
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        config.cid_generator(move || {
            Box::new(Generator { issued: noted.clone(), next: Some(first) })
        });
        config.supported_versions(vec![1]);
        config.grease_quic_bit(false);
        let _ = config.max_udp_payload_size(65_527);
        Self {
            settings,
            qlog,
            endpoint: Endpoint::new(Arc::new(config), None, true, None),
            active: None,
            start: Some(start),
            receive_window,
            token_key: TokenKey::default(),
            ids: issued,
            reported: 1,
            in_use: vec![first],
            paths: Paths::default(),
            path: 0,
            control,
            outgoing: Outgoing::new(sent),
            incoming: Incoming::new(receive_window),
            happened: Vec::new(),
            ending: None,
            rejection: Vec::new(),
            is_connected: false,
            is_confirmed: false,
            is_drained: false,
            is_whole: true,
            budget: Budget::default(),
            now: clock.instant(0.0),
            clock,
            has_more: false,
            is_paced: false,
            marks: true,
            out: Vec::new(),
        }
    }

    fn connection(&mut self) -> Option<&mut Connection> {
        self.active.as_mut().map(|(_, connection)| connection)
    }

    pub fn ids(&self) -> &[Id] {
        &self.in_use
    }

    pub fn is_started(&self) -> bool {
        self.active.is_some() || self.ending.is_some()
    }

    pub fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    // -- paths --

    /// Datagrams that follow come on this path. Returns its index.
    pub fn take_path(&mut self, path: Path) -> usize {
        let used = self.active.as_ref().map(|(_, connection)| connection.remote_address());
        self.path = self.paths.take(path, used);
        self.path
    }

    /// The index of the path in use.
    pub fn path(&self) -> usize {
        let Some((_, connection)) = &self.active else { return self.path };
        self.paths.find(connection.remote_address(), connection.local_ip())
    }

    /// Bytes that may still be sent before the peer's address is validated (RFC 9000, 8.1).
    pub fn allowance(&self) -> f64 {
        match &self.active {
            Some((_, connection)) if connection.side() == Side::Server => self.budget.left(),
            _ => f64::INFINITY,
        }
    }

    /// Looks whether the peer has another address, or its address was validated.
    fn look_at_path(&mut self) {
        let Some((_, connection)) = &mut self.active else { return };
        if connection.side() == Side::Client {
            return;
        }
        let responses = connection.stats().frame_rx.path_response;
        let remote = connection.remote_address();
        if self.budget.look(remote, responses, self.is_connected, self.now) {
            // quinn-proto has a probe timeout only for packets on the current path. The answer to a
            // packet on this path tells which packets on the former path were lost.
            connection.ping();
        }
    }

    // -- in --

    pub fn connect(&mut self, now: f64) -> Result<(), String> {
        let Some(Start::Dialer { config, host, original }) = self.start.take() else {
            return Err("the connection is not a new dialer".into());
        };
        self.now = self.clock.instant(now);
        let remote = self.paths.get(self.path).ok_or("no path")?.remote;
        let mut client = ClientConfig::new(Arc::new(config));
        client.version(1);
        client.transport_config(Arc::new(self.transport(&remote, &original, true)));
        let original = ConnectionId::new(&original);
        client.initial_dst_cid_provider(Arc::new(move || original));
        let active = self.endpoint.connect(self.now, client, remote, &host);
        self.begin(active.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn transport(
        &self,
        remote: &SocketAddr,
        original: &[u8],
        is_client: bool,
    ) -> quinn_proto::TransportConfig {
        let qlog = self.qlog.as_ref().and_then(|open| {
            let write = Python::attach(|py| {
                open.call1(py, (PyBytes::new(py, original), is_client))
                    .map_err(|error| error.write_unraisable(py, None))
                    .ok()
            });
            qlog::stream(write?, self.now)
        });
        self.settings.transport(remote, self.receive_window, self.control.clone(), qlog)
    }

    fn begin(&mut self, mut active: (ConnectionHandle, Connection)) {
        Incoming::begin(&mut active.1);
        // The peer may open as many streams as it has learned of, and no others when these end.
        active.1.set_max_concurrent_streams(Dir::Bi, 0u32.into());
        self.active = Some(active);
        self.pump();
    }

    /// Datagrams of `size` bytes, the last maybe shorter, with the same ECN codepoint.
    pub fn receive(&mut self, data: &[u8], size: usize, now: f64, ecn: u8) {
        let ecn = EcnCodepoint::from_bits(ecn);
        self.now = self.clock.instant(now);
        for datagram in data.chunks(size.max(1)) {
            self.budget.received += datagram.len() as u64;
            self.budget.last = datagram.len() as u64;
            self.receive_one(BytesMut::from(datagram), ecn);
            if self.outgoing.has_too_many_frames() {
                self.violated(Ending::too_many_frames());
                return;
            }
            self.control.lock().unwrap().settle(self.now);
            if !self.budget.is_settled(self.active.as_ref().map(|(_, quic)| quic.remote_address()))
            {
                self.pump();
                self.look_at_path();
            }
        }
        self.pump();
    }

    fn receive_one(&mut self, data: BytesMut, ecn: Option<EcnCodepoint>) {
        let Some(path) = self.paths.get(self.path) else { return };
        if self.active.is_none() {
            self.prepare_listener(&path);
        }
        let mut answer = Vec::new();
        match self.endpoint.handle(self.now, path.remote, path.local, ecn, data, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.active {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) if self.active.is_none() => {
                match self.endpoint.accept(incoming, self.now, &mut answer, None) {
                    Ok(active) => {
                        self.begin(active);
                        self.check_first();
                    }
                    Err(error) if error.response.is_some() => {
                        self.ending = Some(error.cause.into());
                        self.rejection = answer;
                    }
                    Err(_) => {}
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            // The endpoint answers what belongs to no connection.
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    fn prepare_listener(&mut self, path: &Path) {
        let Some(Start::Listener { config, original, is_checked }) = self.start.take() else {
            return;
        };
        let transport = self.transport(&path.remote, &original, false);
        if is_checked {
            let checked = Checked { remote: path.remote, original };
            *self.token_key.0.lock().unwrap() = Some(checked);
        }
        let mut server = ServerConfig::new(config, Arc::new(self.token_key.clone()));
        server.transport_config(Arc::new(transport));
        server.validation_token.sent(0);
        self.endpoint.set_server_config(Some(Arc::new(server)));
    }

    /// The first datagram of a dialer begins the TLS handshake (RFC 9000, 17.2.2).
    fn check_first(&mut self) {
        let Some((_, connection)) = &self.active else { return };
        if connection.stats().frame_rx.crypto == 0 {
            self.violated(Ending::violation("the first packet has no CRYPTO frame"));
        }
    }

    fn violated(&mut self, ending: Ending) {
        let now = self.now;
        if self.ending.is_some() {
            return;
        }
        if let Some(connection) = self.connection() {
            connection.close(now, 0u32.into(), Bytes::new());
        }
        self.ending = Some(ending);
    }

    /// The peer has proved the cookie.
    pub fn prove(&mut self) {
        self.outgoing.prove();
    }

    fn pump(&mut self) {
        let Some((handle, connection)) = &mut self.active else { return };
        while let Some(event) = connection.poll_endpoint_events() {
            if self.is_drained {
                continue; // the endpoint no longer knows the connection
            }
            self.is_drained = event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(answer);
            }
        }
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => {
                    self.is_connected = true;
                    self.is_confirmed |= connection.side() == Side::Server;
                    let alpn = tls::negotiated(connection).alpn;
                    self.happened.push(Happened::Completed(alpn));
                }
                Event::ConnectionLost { reason } => {
                    self.ending.get_or_insert_with(|| reason.into());
                }
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(id) = connection.streams().accept(dir) {
                        self.incoming.opened(VarInt::from(id).into_inner());
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => {
                    self.incoming.readable(VarInt::from(id).into_inner());
                }
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    let stream = VarInt::from(id).into_inner();
                    self.outgoing.drop_stream(stream);
                    let how = format!("stopped ({error_code})");
                    self.happened.push(Happened::Arrived(Arrival::Ended(stream, how)));
                }
                _ => {}
            }
        }
        if self.is_connected && !self.is_confirmed {
            self.is_confirmed = connection.stats().frame_rx.handshake_done > 0;
        }
        self.report_ids();
    }

    fn report_ids(&mut self) {
        let issued = self.ids.lock().unwrap()[self.reported..].to_vec();
        if issued.is_empty() {
            return;
        }
        self.reported += issued.len();
        // An ID is issued for each one that the peer retires.
        for id in self.in_use.clone() {
            if !self.is_routed(&id) {
                self.in_use.retain(|known| *known != id);
                self.happened.push(Happened::Retired(id));
            }
        }
        for id in issued {
            self.in_use.push(id);
            self.happened.push(Happened::Issued(id));
        }
        // IDs that were retired need not be remembered.
        self.ids.lock().unwrap().drain(..self.reported);
        self.reported = 0;
    }

    /// Whether quinn-proto still knows a local ID.
    fn is_routed(&mut self, id: &Id) -> bool {
        let Some(path) = self.paths.get(self.path) else { return true };
        let mut packet = BytesMut::from(&[0x40][..]);
        packet.extend_from_slice(id);
        packet.extend_from_slice(&[0; 32]);
        let mut answer = Vec::new();
        let event =
            self.endpoint.handle(self.now, path.remote, path.local, None, packet, &mut answer);
        matches!(event, Some(DatagramEvent::ConnectionEvent(..)))
    }

    /// What happened since the last call.
    pub fn drain(&mut self) -> Vec<Happened> {
        let mut happened = std::mem::take(&mut self.happened);
        if self.is_connected
            && self.incoming.has_readable()
            && let Some((_, connection)) = &mut self.active
        {
            happened.extend(self.incoming.read(connection).into_iter().map(Happened::Arrived));
        }
        happened
    }

    // -- out --

    pub fn write(&mut self, stream: u64, parts: Vec<Part>) -> Result<(), String> {
        if self.incoming.is_refused(stream) {
            return Err("the stream has ended".into());
        }
        if !is_bidirectional(stream) {
            return Err("not a bidirectional stream".into());
        }
        self.outgoing.write(stream, parts, self.is_whole);
        Ok(())
    }

    pub fn refuse(&mut self, stream: u64, code: u32) {
        let Some((_, connection)) = &mut self.active else { return };
        // quinn-proto counts the streams in use wrongly if one is reset before the peer opens it.
        let is_open = is_local(connection, stream) || self.incoming.has_opened(stream);
        if is_open && is_bidirectional(stream) && self.incoming.refuse(stream) {
            let _ = connection.recv_stream(stream_id(stream)).stop(code.into());
            let _ = connection.send_stream(stream_id(stream)).reset(code.into());
            self.outgoing.drop_stream(stream);
        }
    }

    pub fn set_whole(&mut self, whole: bool) {
        self.is_whole = whole;
    }

    /// Calls `leave` with each burst; about `limit` datagrams.
    pub fn transmit<E>(
        &mut self,
        now: f64,
        limit: usize,
        mut leave: impl FnMut(Burst, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = self.clock.instant(now).max(self.now);
        self.has_more = false;
        let mut count = 0;
        if !self.rejection.is_empty() {
            let rejection = std::mem::take(&mut self.rejection);
            if let Some(path) = self.paths.get(self.path) {
                leave(Burst { size: rejection.len(), path, index: self.path }, &rejection)?;
            }
        }
        while count < limit {
            let Some(transmit) = self.poll_transmit(at, limit - count) else { break };
            // Congestion control tells bursts apart by their time.
            at += std::time::Duration::from_nanos(1);
            let size = transmit.segment_size.unwrap_or(transmit.size);
            count += transmit.size.div_ceil(size);
            self.budget.on_sent(transmit.destination, transmit.size);
            let index = self.paths.find(transmit.destination, transmit.src_ip);
            let path = Path { remote: transmit.destination, local: transmit.src_ip };
            let path = self.paths.get(index).unwrap_or(path);
            leave(Burst { size, path, index }, &self.out[..transmit.size])?;
            if self.outgoing.has_tail() {
                // Acknowledgements alone elicit none, so the loss of the last data would be noticed
                // at the probe timeout.
                self.ping();
            }
        }
        self.has_more = count >= limit;
        self.now = at;
        self.pump();
        Ok(())
    }

    fn poll_transmit(&mut self, at: Instant, limit: usize) -> Option<Transmit> {
        self.out.clear();
        let (_, connection) = self.active.as_mut()?;
        let size = usize::from(connection.current_mtu());
        // quinn-proto sends a whole datagram if any byte may be sent to an address that is not
        // validated; RFC 9000, 8.1, does not allow that.
        let left = match connection.side() {
            Side::Server => self.budget.left(),
            Side::Client => f64::INFINITY,
        };
        let least = if self.is_connected { usize::from(BASE) } else { size };
        if left < least as f64 {
            return None;
        }
        let limit = limit.min((left / size as f64) as usize);
        let room = self.control.lock().unwrap().room(at, size);
        self.is_paced = room.is_paced;
        let most = room.datagrams.min(limit).min(MOST_BYTES / size).clamp(1, MOST_SEGMENTS);
        if room.datagrams > 0 && self.is_connected && left.is_infinite() {
            // quinn-proto gets no more than may leave: while data waits for the congestion window, it
            // sends no acknowledgements either.
            self.outgoing.feed(connection, most * size, self.is_whole);
        } else {
            self.outgoing.hold();
        }
        let mut transmit = connection.poll_transmit(at, most, &mut self.out);
        if transmit.is_none() && self.outgoing.owes_ack() {
            // Retransmissions may wait for the window, and acknowledgements with them.
            self.control.lock().unwrap().open();
            transmit = connection.poll_transmit(at, 1, &mut self.out);
        }
        if let Some(transmit) = &transmit
            && transmit.destination == connection.remote_address()
        {
            self.marks = transmit.ecn.is_some();
        }
        if transmit.is_none() && room.datagrams > 0 && self.outgoing.waits() {
            self.control.lock().unwrap().on_idle();
        }
        transmit
    }

    pub fn datagram_size(&self) -> u16 {
        match &self.active {
            Some((_, connection)) => connection.current_mtu(),
            None => self.settings.first_size(),
        }
    }

    // -- time --

    pub fn timer(&mut self) -> Option<f64> {
        let clock = self.clock;
        let now = self.now;
        let paced = self.is_paced.then(|| self.control.lock().unwrap().next_time(now));
        let timer = self.connection()?.poll_timeout().map(|at| clock.seconds(at));
        match (timer, paced) {
            (Some(timer), Some(paced)) => Some(timer.min(paced)),
            (timer, paced) => timer.or(paced),
        }
    }

    pub fn handle_timer(&mut self, now: f64) {
        self.now = self.clock.instant(now).max(self.now);
        let now = self.now;
        if let Some(connection) = self.connection() {
            connection.handle_timeout(now);
        }
        self.control.lock().unwrap().settle(now);
        self.pump();
        self.look_at_path();
    }

    // -- counters and credit --

    pub fn progress(&mut self) -> Progress {
        (
            self.acknowledged(),
            self.sent(),
            self.pacing_rate(),
            self.round_trip(),
            self.least_round_trip(),
            self.datagram_size(),
            self.timer(),
            self.has_more,
            !self.happened.is_empty() || self.incoming.has_readable(),
            self.marks,
            self.outgoing.is_blocked(),
        )
    }

    pub fn acknowledged(&self) -> u64 {
        self.outgoing.acknowledged()
    }

    pub fn sent(&self) -> u64 {
        self.outgoing.sent()
    }

    pub fn received(&self) -> u64 {
        self.incoming.received()
    }

    pub fn grant(&mut self, credit: u64) {
        if let Some((_, connection)) = &mut self.active {
            self.incoming.grant(connection, credit);
        }
    }

    pub fn pacing_rate(&self) -> f64 {
        self.control.lock().unwrap().pacing_rate()
    }

    pub fn least_round_trip(&self) -> f64 {
        self.control.lock().unwrap().min_rtt()
    }

    /// Seconds, once measured.
    pub fn round_trip(&self) -> Option<f64> {
        let (_, connection) = self.active.as_ref()?;
        let is_measured = self.control.lock().unwrap().min_rtt().is_finite();
        is_measured.then(|| connection.rtt().as_secs_f64())
    }

    pub fn capacity(&self) -> f64 {
        self.control.lock().unwrap().capacity()
    }

    pub fn resume(&mut self, in_flight: f64, round_trip: f64) {
        self.control.lock().unwrap().resume(in_flight, round_trip);
    }

    pub fn datagrams_sent(&self) -> u64 {
        self.active.as_ref().map_or(0, |(_, connection)| connection.stats().path.sent_packets)
    }

    pub fn datagrams_lost(&self) -> u64 {
        self.active.as_ref().map_or(0, |(_, connection)| connection.stats().path.lost_packets)
    }

    pub fn negotiated(&self) -> tls::Negotiated {
        self.active.as_ref().map(|(_, quic)| tls::negotiated(quic)).unwrap_or_default()
    }

    pub fn export(&self, label: &[u8], length: usize) -> Vec<u8> {
        let mut output = vec![0; length];
        let Some((_, connection)) = &self.active else { return Vec::new() };
        match connection.crypto_session().export_keying_material(&mut output, label, &[]) {
            Ok(()) => output,
            Err(_) => Vec::new(),
        }
    }

    // -- the rest of the life --

    pub fn ping(&mut self) {
        if let Some(connection) = self.connection() {
            connection.ping();
        }
    }

    /// Whether a datagram is a stateless reset of the peer; then the connection has ended.
    pub fn is_reset(&mut self, data: &[u8], now: f64) -> bool {
        self.now = self.clock.instant(now).max(self.now);
        self.receive_one(BytesMut::from(data), None);
        self.pump();
        self.ending.as_ref().is_some_and(|ending| ending.reason == "stateless reset")
    }

    /// Switches to another connection ID of the peer.
    pub fn renew_id(&mut self) {
        if let Some(connection) = self.connection() {
            connection.local_address_changed();
        }
        self.pump();
    }

    /// The local address has changed.
    pub fn migrate(&mut self, now: f64) {
        self.now = self.clock.instant(now).max(self.now);
        let now = self.now;
        if let Some(connection) = self.connection() {
            connection.path_changed(now);
            connection.local_address_changed();
        }
        self.pump();
    }

    pub fn close(&mut self, code: u32, reason: &[u8]) {
        let now = self.now;
        let reason = Bytes::copy_from_slice(reason);
        if let Some(connection) = self.connection() {
            connection.close(now, code.into(), reason);
        }
        self.pump();
    }
}
