//! The native QUIC engine of quicdist: QUIC connections for Python, around quinn-proto.
//!
//! It has no threads and no clock. Python owns them and the socket, and the routing of datagrams, the
//! decisions on certificates, and the policy of who may connect. `socket` uses Python's socket.

mod address;
mod budget;
mod clock;
mod congestion;
mod connection;
mod control;
mod ending;
mod engine;
mod frames;
mod guard;
mod ids;
mod incoming;
mod late;
mod live;
mod model;
mod outgoing;
mod part;
mod qlog;
mod retry;
mod sent;
mod settings;
#[cfg(target_os = "linux")]
mod socket;
#[cfg(not(target_os = "linux"))]
#[path = "no_socket.rs"]
mod socket;
mod tls;

use pyo3::prelude::*;

#[pymodule]
pub fn quicdist_engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    guard::install_hook();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<connection::Connection>()?;
    module.add_class::<model::ControllerModel>()?;
    #[cfg(target_os = "linux")]
    module.add_class::<socket::Socket>()?;
    Ok(())
}
