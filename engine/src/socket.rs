//! Python's socket: reads and sends datagrams without a call to Python for each.
//!
//! One call of `read` returns several batches, with their addresses as the objects that were
//! returned for these addresses before.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::RawFd;

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, SockaddrStorage, recvmsg, sendmsg,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::address::Path;

/// The kernel merges datagrams up to this size (udp(7), UDP_GRO).
const MOST_BYTES: usize = 65_535;

/// The bits of the ECN field in the TOS byte and in the traffic class (RFC 3168, 5).
const ECN: u8 = 0x03;

/// For the control messages with the size of merged datagrams, the local address and the TOS byte.
const CONTROL: usize = 128;

/// Paths that are kept at most.
const MOST_PATHS: usize = 1024;

/// Reads of a single datagram after which the next one looks for more: the system call that finds
/// no further datagram costs as much as reading one.
const LONE: u8 = 8;

type Local = Option<Vec<u8>>;

/// A non-blocking UDP socket, which must stay open as long as it is used here.
#[pyclass(module = "quicdist_engine")]
pub struct Socket {
    socket: RawFd,
    has_locals: bool,
    data: Vec<u8>,
    control: Vec<u8>,
    paths: HashMap<(SockaddrStorage, Local), Py<PyTuple>>,
    /// Calls that read one datagram and do not look for more.
    lone: u8,
}

/// What one system call has read.
struct Read {
    bytes: usize,
    segment: usize,
    ecn: u8,
    from: (SockaddrStorage, Local),
}

#[pymethods]
impl Socket {
    /// `has_locals`: the paths contain the local address, since the socket has several.
    #[new]
    fn new(socket: RawFd, has_locals: bool) -> Self {
        let (data, control) = (vec![0; MOST_BYTES], vec![0; CONTROL]);
        Self { socket, has_locals, data, control, paths: HashMap::new(), lone: 0 }
    }

    /// Tuples (datagrams, size of each, path, ECN codepoint) of at most about `limit` datagrams,
    /// and whether the socket has an error.
    fn read<'py>(&mut self, py: Python<'py>, limit: usize) -> PyResult<(Bound<'py, PyList>, bool)> {
        let batches = PyList::empty(py);
        let mut count = 0;
        let limit = if self.lone > 0 { 1 } else { limit };
        self.lone = self.lone.saturating_sub(1);
        while count < limit {
            let read = match self.read_once() {
                Ok(read) => read,
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(_) => return Ok((batches, true)),
            };
            let size =
                if (1..read.bytes).contains(&read.segment) { read.segment } else { read.bytes };
            count += read.bytes.div_ceil(size.max(1)).max(1);
            let data = PyBytes::new(py, &self.data[..read.bytes]);
            batches.append((data, size, self.path(py, read.from)?, read.ecn))?;
        }
        if count > 1 {
            self.lone = 0;
        } else if count == 1 && limit > 1 {
            self.lone = LONE;
        }
        Ok((batches, false))
    }
}

impl Socket {
    /// Sends datagrams of `size` bytes, the last maybe shorter. Returns false if none was sent.
    pub fn send(&self, path: Path, size: usize, data: &[u8]) -> bool {
        let mut controls = Vec::with_capacity(2);
        let (v4, v6);
        match path.local {
            Some(IpAddr::V4(local)) => {
                let s_addr = u32::from_ne_bytes(local.octets());
                v4 = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr { s_addr },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                controls.push(ControlMessage::Ipv4PacketInfo(&v4));
            }
            Some(IpAddr::V6(local)) => {
                let ipi6_addr = in6_addr { s6_addr: local.octets() };
                v6 = in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                controls.push(ControlMessage::Ipv6PacketInfo(&v6));
            }
            None => {}
        }
        let segment = size as u16;
        if size < data.len() {
            controls.push(ControlMessage::UdpGsoSegments(&segment));
        }
        let to = SockaddrStorage::from(path.remote);
        sendmsg(self.socket, &[IoSlice::new(data)], &controls, MsgFlags::empty(), Some(&to)).is_ok()
    }

    fn read_once(&mut self) -> Result<Read, Errno> {
        let mut parts = [IoSliceMut::new(&mut self.data)];
        let control = Some(&mut self.control[..]);
        let message: RecvMsg<SockaddrStorage> =
            recvmsg(self.socket, &mut parts, control, MsgFlags::empty())?;
        let mut segment = 0;
        let mut local = None;
        let mut ecn = 0;
        for each in message.cmsgs()? {
            match each {
                ControlMessageOwned::UdpGroSegments(size) => {
                    segment = usize::try_from(size).unwrap_or(0);
                }
                ControlMessageOwned::Ipv4PacketInfo(info) if self.has_locals => {
                    local = Some(info.ipi_spec_dst.s_addr.to_ne_bytes().to_vec());
                }
                ControlMessageOwned::Ipv6PacketInfo(info) if self.has_locals => {
                    local = Some(info.ipi6_addr.s6_addr.to_vec());
                }
                ControlMessageOwned::Ipv4Tos(field) => ecn = field & ECN,
                ControlMessageOwned::Ipv6TClass(field) => ecn = field as u8 & ECN,
                _ => {}
            }
        }
        let from = message.address.ok_or(Errno::EDESTADDRREQ)?;
        Ok(Read { bytes: message.bytes, segment, ecn, from: (from, local) })
    }

    fn path<'py>(
        &mut self,
        py: Python<'py>,
        from: (SockaddrStorage, Local),
    ) -> PyResult<Bound<'py, PyTuple>> {
        if let Some(known) = self.paths.get(&from) {
            return Ok(known.bind(py).clone());
        }
        if self.paths.len() >= MOST_PATHS {
            self.paths.clear();
        }
        let local = from.1.as_ref().map(|local| PyBytes::new(py, local));
        let path = PyTuple::new(py, [address(py, &from.0)?.into_any(), local.into_pyobject(py)?])?;
        self.paths.insert(from, path.clone().unbind());
        Ok(path)
    }
}

/// The address in the form of Python's socket module.
fn address<'py>(py: Python<'py>, from: &SockaddrStorage) -> PyResult<Bound<'py, PyTuple>> {
    if let Some(v4) = from.as_sockaddr_in() {
        (v4.ip().to_string(), v4.port()).into_pyobject(py)
    } else if let Some(v6) = from.as_sockaddr_in6() {
        let host = v6.ip().to_string();
        (host, v6.port(), v6.flowinfo(), v6.scope_id()).into_pyobject(py)
    } else {
        ("", 0).into_pyobject(py)
    }
}
