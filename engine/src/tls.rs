//! TLS 1.3 by rustls. Python judges the peer's certificate inside the handshake.

mod session;
mod verifier;

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quinn_proto::crypto;
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::quic::{ClientConnection, Connection, ServerConnection, Suite, Version};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

pub use session::{Negotiated, negotiated};

use crate::sent::SharedSent;
use session::Session;
use verifier::Anyone;

pub type Chain = Vec<CertificateDer<'static>>;

/// Python's decision on a chain of certificates: None, or the TLS alert that ends the handshake.
pub type Judge = Arc<Py<PyAny>>;

/// The TLS settings of an engine.
pub struct Settings {
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8, DER.
    pub key: Vec<u8>,
    pub asks_certificate: bool,
    pub cipher_suites: Vec<u16>,
    /// In order of preference; empty for the library's choice.
    pub groups: Vec<u16>,
    /// Called with each line of the key log.
    pub key_log: Option<Py<PyAny>>,
}

/// Configurations that the connections of an engine share.
pub struct Configs {
    provider: Arc<CryptoProvider>,
    identity: Arc<SingleCertAndKey>,
    verifier: Arc<Anyone>,
    key_log: Option<Arc<PythonKeyLog>>,
}

impl Configs {
    pub fn new(settings: Settings) -> Result<Self, rustls::Error> {
        let mut provider = rustls::crypto::ring::default_provider();
        choose(&mut provider.cipher_suites, &settings.cipher_suites, |suite| suite.suite().into());
        if !settings.groups.is_empty() {
            choose(&mut provider.kx_groups, &settings.groups, |group| group.name().into());
        }
        let provider = Arc::new(provider);
        let key = PrivatePkcs8KeyDer::from(settings.key).into();
        let key = provider.key_provider.load_private_key(key)?;
        let chain = settings.chain.into_iter().map(CertificateDer::from).collect();
        Ok(Self {
            identity: Arc::new(CertifiedKey::new(chain, key).into()),
            verifier: Arc::new(Anyone::new(provider.clone(), settings.asks_certificate)),
            provider,
            key_log: settings.key_log.map(|log| Arc::new(PythonKeyLog(log))),
        })
    }

    pub fn client(&self, alpns: Vec<Vec<u8>>) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone())
            .with_client_cert_resolver(self.identity.clone());
        config.alpn_protocols = alpns;
        config.resumption = rustls::client::Resumption::disabled();
        if let Some(log) = &self.key_log {
            config.key_log = log.clone();
        }
        Ok(Arc::new(config))
    }

    pub fn server(&self, alpns: Vec<Vec<u8>>) -> Result<Arc<rustls::ServerConfig>, rustls::Error> {
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(self.verifier.clone())
            .with_cert_resolver(self.identity.clone());
        config.alpn_protocols = alpns;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        if let Some(log) = &self.key_log {
            config.key_log = log.clone();
        }
        Ok(Arc::new(config))
    }
}

/// Keeps the chosen ones, in the order in which they were chosen.
fn choose<T: Copy>(known: &mut Vec<T>, chosen: &[u16], number: impl Fn(&T) -> u16) {
    *known = chosen
        .iter()
        .filter_map(|wanted| known.iter().find(|each| number(each) == *wanted).copied())
        .collect();
}

/// The suite of Initial packets (RFC 9001, 5.2), whatever suites are chosen for the connection.
fn initial_suite() -> Suite {
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    suite.tls13().and_then(|suite| suite.quic_suite()).expect("ring has QUIC suites")
}

/// What a session of one connection needs besides the shared configuration.
#[derive(Clone)]
pub struct Watch {
    pub judge: Option<Judge>,
    pub sent: SharedSent,
}

pub struct ClientConfig {
    pub config: Arc<rustls::ClientConfig>,
    pub watch: Watch,
}

impl crypto::ClientConfig for ClientConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        if version != 1 {
            return Err(ConnectError::UnsupportedVersion);
        }
        // A name that cannot be sent in the server_name extension is left out, as an address is.
        let name = ServerName::try_from(server_name.to_owned())
            .unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()));
        let tls = ClientConnection::new(self.config.clone(), Version::V1, name, encode(params))
            .map_err(|error| ConnectError::InvalidServerName(error.to_string()))?;
        Ok(Box::new(Session::new(Connection::Client(tls), self.watch.clone())))
    }
}

pub struct ServerConfig {
    pub config: Arc<rustls::ServerConfig>,
    pub watch: Watch,
}

impl crypto::ServerConfig for ServerConfig {
    fn initial_keys(
        &self,
        version: u32,
        id: &ConnectionId,
    ) -> Result<crypto::Keys, crypto::UnsupportedVersion> {
        if version != 1 {
            return Err(crypto::UnsupportedVersion);
        }
        Ok(session::initial_keys(id, Side::Server, &self.watch.sent))
    }

    fn retry_tag(&self, _: u32, _: &ConnectionId, _: &[u8]) -> [u8; 16] {
        unreachable!("Python sends the Retry packets")
    }

    fn start_session(
        self: Arc<Self>,
        _: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        let tls = ServerConnection::new(self.config.clone(), Version::V1, encode(params))
            .expect("the configuration was checked");
        Box::new(Session::new(Connection::Server(tls), self.watch.clone()))
    }
}

fn encode(params: &TransportParameters) -> Vec<u8> {
    let mut bytes = Vec::new();
    params.write(&mut bytes);
    bytes
}

/// Writes TLS secrets through a Python callable, in the NSS Key Log format.
#[derive(Debug)]
struct PythonKeyLog(Py<PyAny>);

impl rustls::KeyLog for PythonKeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        Python::attach(|py| {
            if let Err(error) = self.0.call1(py, (line,)) {
                error.write_unraisable(py, None);
            }
        });
    }
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Calls the judge. Returns the alert that ends the handshake: internal_error if the judge fails.
fn ask(judge: &Judge, chain: &Chain) -> Option<u8> {
    const INTERNAL_ERROR: u8 = 80;
    Python::attach(|py| {
        let chain: Vec<_> = chain.iter().map(|each| PyBytes::new(py, each)).collect();
        let answer = judge.call1(py, (chain,)).and_then(|answer| answer.extract(py));
        answer.unwrap_or_else(|error| {
            error.write_unraisable(py, None);
            Some(INTERNAL_ERROR)
        })
    })
}
