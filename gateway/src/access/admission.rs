//! Decides which connections are accepted, by origin, by address and by number.

use crate::core::rate::Bucket;
use crate::metrics;
use carillon_proto::limits::BEGINNING_MAX;
use carillon_runtime::settings::{Networks, Settings};
use carillon_runtime::time::steady_ms;
use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses whose allowance is remembered. Above it, full allowances are forgotten, and then all others. Both only
/// favour clients.
const ADDRESSES_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionError {
    /// A browser page of another origin requested it.
    Origin,
    /// Too many connections from this address; the time to wait in milliseconds.
    Address(u64),
    /// The instance has its maximum of connections.
    Full,
    /// The maximum number of sessions is being started at this moment.
    Busy,
}

/// Counts connections and applies the limits.
pub struct Admission {
    allowed_origins: Vec<String>,
    dev: bool,
    trusted_proxies: Networks,
    per_ip_per_minute: u32,
    connections_max: u32,
    connections: Arc<AtomicU32>,
    starting: Arc<AtomicU32>,
    addresses: Mutex<HashMap<IpAddr, Bucket>>,
}

/// A session that is identified and has not been greeted yet. Dropping it ends the count.
#[derive(Debug)]
pub struct StartingSession(Arc<AtomicU32>);

impl Drop for StartingSession {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Permission for one of the instance's connections. Dropping it gives the permission back.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<AtomicU32>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        metrics::CONNECTIONS.dec();
    }
}

impl Admission {
    pub fn new(settings: &Settings) -> Admission {
        Admission {
            allowed_origins: settings.allowed_origins.clone(),
            dev: settings.dev,
            trusted_proxies: settings.trusted_proxies.clone(),
            per_ip_per_minute: settings.limits.connections_per_ip_per_minute,
            connections_max: settings.limits.connections,
            connections: Arc::default(),
            starting: Arc::default(),
            addresses: Mutex::default(),
        }
    }

    /// Counts a session that is being started. While there are too many, new connections are refused.
    pub fn count_starting(&self) -> StartingSession {
        self.starting.fetch_add(1, Ordering::Relaxed);
        StartingSession(self.starting.clone())
    }

    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Admits a connection from `peer` with these headers.
    ///
    /// # Errors
    /// Why it is not admitted.
    pub fn admit(&self, headers: &HeaderMap, peer: IpAddr) -> Result<ConnectionPermit, AdmissionError> {
        if !self.origin_allowed(headers) {
            return Err(AdmissionError::Origin);
        }
        if self.starting.load(Ordering::Relaxed) >= BEGINNING_MAX {
            return Err(AdmissionError::Busy);
        }
        let address = self.client_address(headers, peer);
        if !address.is_loopback() && !self.trusted_proxies.contains(&address) {
            self.try_acquire(address).map_err(AdmissionError::Address)?;
        }
        let taken = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            (self.connections_max == 0 || now < self.connections_max).then_some(now + 1)
        });
        taken.map_err(|_| AdmissionError::Full)?;
        metrics::CONNECTIONS.inc();
        Ok(ConnectionPermit(self.connections.clone()))
    }

    /// Whether the request's origin may connect, which prevents cross-site WebSocket hijacking. A request without an
    /// origin does not come from a browser page and is allowed. `null` is refused unless every origin is allowed.
    pub fn origin_allowed(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        let Ok(origin) = origin.to_str() else { return false };
        if self.allowed_origins.iter().any(|allowed| allowed == origin || allowed == "*") {
            return true;
        }
        let Some((_, authority)) = origin.split_once("://") else { return false };
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
        let local = matches!(name, "localhost" | "127.0.0.1" | "[::1]");
        (self.allowed_origins.is_empty() && host == Some(authority)) || (self.dev && local)
    }

    /// Whether the settings name the allowed origins instead of allowing `*`. With `*`, cookies of other pages must not
    /// be used.
    pub fn trusts_origins(&self) -> bool {
        !self.allowed_origins.iter().any(|allowed| allowed == "*")
    }

    /// The client's address. Behind trusted proxies it is the rightmost forwarded address that is not a trusted proxy.
    pub fn client_address(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        if !self.trusted_proxies.contains(&peer) {
            return peer;
        }
        let forwarded: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        let hops = forwarded.iter().rev().map_while(|hop| hop.trim().parse::<IpAddr>().ok());
        hops.into_iter().find(|hop| !self.trusted_proxies.contains(hop)).unwrap_or(peer)
    }

    fn try_acquire(&self, address: IpAddr) -> Result<(), u64> {
        let now_ms = steady_ms();
        let mut addresses = self.addresses.lock();
        if addresses.len() >= ADDRESSES_MAX {
            addresses.retain(|_, bucket| !bucket.is_full(now_ms, self.per_ip_per_minute));
            if addresses.len() >= ADDRESSES_MAX {
                addresses.clear();
            }
        }
        addresses.entry(address).or_default().try_acquire(now_ms, self.per_ip_per_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_runtime::settings::Network;

    fn admission(allowed: &[&str], dev: bool) -> Admission {
        Admission {
            allowed_origins: allowed.iter().map(ToString::to_string).collect(),
            dev,
            trusted_proxies: Networks(
                ["10.0.0.1", "10.0.0.2"].map(|text| Network::parse(text).expect("an address")).into(),
            ),
            per_ip_per_minute: 2,
            connections_max: 3,
            connections: Arc::default(),
            starting: Arc::default(),
            addresses: Mutex::default(),
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn origins_are_exact() {
        let own = [("host", "chat.example:8000")];
        let with = |origin: &str| headers(&[own[0], ("origin", origin)]);
        let default = admission(&[], false);
        assert!(default.origin_allowed(&headers(&own)));
        assert!(default.origin_allowed(&with("https://chat.example:8000")));
        for foreign in [
            "https://evil.example",
            "null",
            "https://chat.example:8000.evil.example",
            "http://localhost:3000",
        ] {
            assert!(!default.origin_allowed(&with(foreign)), "{foreign}");
        }
        assert!(admission(&[], true).origin_allowed(&with("http://localhost:3000")));
        let listed = admission(&["https://app.example"], false);
        assert!(listed.origin_allowed(&with("https://app.example")));
        assert!(!listed.origin_allowed(&with("https://chat.example:8000")));
    }

    #[test]
    fn the_rightmost_untrusted_forwarded_address_counts_behind_trusted_proxies() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let forwarded = headers(&[("x-forwarded-for", "6.6.6.6, 7.7.7.7, 10.0.0.2")]);
        let admission = admission(&[], false);
        assert_eq!(admission.client_address(&forwarded, address("8.8.8.8")), address("8.8.8.8"));
        assert_eq!(admission.client_address(&forwarded, address("10.0.0.1")), address("7.7.7.7"));
        assert_eq!(admission.client_address(&headers(&[]), address("10.0.0.1")), address("10.0.0.1"));
    }

    /// Without this bound, all clients of a dead gateway begin at once on another.
    #[test]
    fn connections_are_refused_while_too_many_sessions_begin() {
        let admission = admission(&[], false);
        let (none, near) = (HeaderMap::new(), "127.0.0.1".parse().expect("an address"));
        let mut starting: Vec<_> = (0..BEGINNING_MAX).map(|_| admission.count_starting()).collect();
        assert_eq!(admission.admit(&none, near).err(), Some(AdmissionError::Busy));
        assert_eq!(admission.connections(), 0, "a refused connection must not be counted");
        starting.pop();
        assert!(admission.admit(&none, near).is_ok());
    }

    #[test]
    fn connections_are_counted_and_given_back() {
        let admission = admission(&[], false);
        let none = HeaderMap::new();
        let far = "8.8.8.8".parse().expect("an address");
        let near = "127.0.0.1".parse().expect("an address");
        let first = admission.admit(&none, far).expect("admitted");
        let _second = admission.admit(&none, far).expect("admitted");
        assert!(matches!(admission.admit(&none, far), Err(AdmissionError::Address(wait_ms)) if wait_ms > 0));
        let _third = admission.admit(&none, near).expect("loopback has no limit of its own");
        assert_eq!(admission.admit(&none, near).err(), Some(AdmissionError::Full));
        drop(first);
        assert!(admission.admit(&none, near).is_ok());
    }
}
