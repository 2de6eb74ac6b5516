//! Socket addresses of Python's `socket` module.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// `host` is an IP address, possibly with a zone. Returns an error text for another host.
pub fn remote(host: &str, port: u16, scope: u32) -> Result<SocketAddr, String> {
    let plain = host.split('%').next().unwrap_or(host);
    let ip: IpAddr = plain.parse().map_err(|_| format!("invalid IP address {host:?}"))?;
    Ok(match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    })
}

/// A packed local address.
pub fn local(packed: Option<&[u8]>) -> Option<IpAddr> {
    let packed = packed?;
    if let Ok(ip) = <[u8; 4]>::try_from(packed) {
        return Some(ip.into());
    }
    <[u8; 16]>::try_from(packed).ok().map(IpAddr::from)
}

pub fn is_loopback(address: &SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

/// A network path: the peer's address, and the local one if the socket has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub remote: SocketAddr,
    pub local: Option<IpAddr>,
}

/// The paths on which datagrams came, by index. Anyone who knows a connection ID can send from any
/// address, so their number is limited.
#[derive(Default)]
pub struct Paths {
    known: Vec<Path>,
    next: usize,
}

const MOST: usize = 16;

impl Paths {
    /// The index of a path, which replaces an old one except that to `used` if there are too many.
    pub fn take(&mut self, path: Path, used: Option<SocketAddr>) -> usize {
        if let Some(index) = self.known.iter().position(|known| *known == path) {
            return index;
        }
        if self.known.len() < MOST {
            self.known.push(path);
            return self.known.len() - 1;
        }
        self.next = (self.next + 1) % MOST;
        if Some(self.known[self.next].remote) == used {
            self.next = (self.next + 1) % MOST;
        }
        self.known[self.next] = path;
        self.next
    }

    pub fn get(&self, index: usize) -> Option<Path> {
        self.known.get(index).copied()
    }

    /// The index of the path to an address; 0 for one that was replaced.
    pub fn find(&self, remote: SocketAddr, local: Option<IpAddr>) -> usize {
        let path = Path { remote, local };
        let found = self.known.iter().position(|known| *known == path);
        found.or_else(|| self.known.iter().position(|known| known.remote == remote)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path { remote: SocketAddr::from(([192, 0, 2, 1], port)), local: None }
    }

    #[test]
    fn the_path_in_use_stays_when_others_are_many() {
        let mut paths = Paths::default();
        let used = paths.take(path(1), None);
        for port in 2..1_000 {
            assert!(paths.take(path(port), Some(path(1).remote)) < MOST);
        }
        assert_eq!(paths.get(used), Some(path(1)));
    }

    #[test]
    fn hosts_may_have_a_zone() {
        let address = remote("fe80::1%eth0", 4433, 3).unwrap();
        assert_eq!(address.to_string(), "[fe80::1%3]:4433");
        assert!(remote("name", 1, 0).is_err());
    }
}
