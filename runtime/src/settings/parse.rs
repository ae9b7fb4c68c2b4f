//! Parsers for the texts of settings. They check bounds, and their errors name a valid form.

use super::{Access, Network, Networks};
use carillon_proto::subject::Prefix;
use std::net::SocketAddr;
use std::time::Duration;

/// Parses an address with a port.
///
/// # Errors
/// When `text` is not one.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("'{text}' is no address and port like 127.0.0.1:8000 or [::]:8000"))
}

/// Parses `true` or `false`, or a synonym.
///
/// # Errors
/// When `text` is neither.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("'{text}' is neither true nor false")),
    }
}

/// Parses a whole number from `least` to `most`.
///
/// # Errors
/// When `text` is not a whole number, or is out of bounds.
pub fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no whole number from {least} to {most}");
    let number: u64 = text.replace('_', "").parse().map_err(|_| wrong())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(wrong()) }
}

/// Like [`number`], for a field of 32 bits.
///
/// # Errors
/// As for [`number`].
pub fn number_32(text: &str, least: u32, most: u32) -> Result<u32, String> {
    number(text, least.into(), most.into()).map(|number| number as u32)
}

/// Parses a share from 0 to 1.
///
/// # Errors
/// When `text` is not a number, or is out of bounds.
pub fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().unwrap_or(f64::NAN);
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("'{text}' is no number from 0 to 1")) }
}

/// Parses a length of time from `least` to `most`: `25` (seconds), `25s`, `500ms`, `1.5m`, `1h`, `7d`.
///
/// # Errors
/// When `text` is not a length of time, or is out of bounds.
pub fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let wrong = || {
        let (least, most) = (show_duration(least), show_duration(most));
        format!("'{text}' is no time like 25, 25s, 500ms, 5m or 1h, from {least} to {most}")
    };
    let (digits, unit) = split_unit(text);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let count: f64 = digits.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(count * seconds).map_err(|_| wrong())?;
    // No setting is finer than a millisecond, so decimal fractions are rounded to it.
    let duration = Duration::from_millis((duration.as_secs_f64() * 1_000.0).round() as u64);
    if (least..=most).contains(&duration) { Ok(duration) } else { Err(wrong()) }
}

/// The text of a length of time, in a form that [`duration`] reads.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, unit_millis) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        // Times up to two minutes are easier to read in seconds.
        if millis.is_multiple_of(unit_millis) && (unit == "s" || millis > 120_000) {
            return format!("{}{unit}", millis / unit_millis);
        }
    }
    format!("{millis}ms")
}

/// Parses a number of bytes from `least` to `most`: `65536`, `64KiB`, `64 kB`, `1MiB`. 0 means `most`, because no size
/// is unlimited.
///
/// # Errors
/// When `text` is not a size, or is out of bounds.
pub fn size(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let wrong = || {
        format!("'{text}' is no size like 65536 or 64KiB, from {} to {}", show_size(least), show_size(most))
    };
    let (digits, unit) = split_unit(text);
    let unit_bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "kib" | "k" => 1_024,
        "mb" => 1_000_000,
        "mib" | "m" => 1_024 * 1_024,
        _ => return Err(wrong()),
    };
    let count: usize = digits.replace('_', "").parse().map_err(|_| wrong())?;
    match count.checked_mul(unit_bytes).ok_or_else(wrong)? {
        0 => Ok(most),
        bytes if (least..=most).contains(&bytes) => Ok(bytes),
        _ => Err(wrong()),
    }
}

/// The text of a size, in a form that [`size`] reads.
pub fn show_size(bytes: usize) -> String {
    if bytes >= 1_024 && bytes.is_multiple_of(1_024) {
        format!("{}KiB", bytes / 1_024)
    } else {
        bytes.to_string()
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (text[..unit_at].trim_end(), &text[unit_at..])
}

/// Parses text that must not be empty.
///
/// # Errors
/// When it is empty.
pub fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("must not be empty: leave it out instead".into())
    } else {
        Ok(text.trim().into())
    }
}

/// The parts between commas, without empty ones.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Parses an HTTP or HTTPS URL.
///
/// # Errors
/// When `url` is not one.
pub fn http_url(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || url.contains(char::is_whitespace) {
        return Err(format!("'{url}' is no URL like https://example.com/path"));
    }
    Ok(url.to_owned())
}

/// Parses the URLs of NATS servers, separated by commas.
///
/// # Errors
/// When one of them is not a NATS URL. The error does not repeat the text, which may contain a password.
pub fn nats_url(text: &str) -> Result<String, String> {
    let wrong = "must be URLs like nats://127.0.0.1:4222, several separated by commas";
    let servers: Vec<&str> = parts(text).collect();
    let known = |server: &&str| {
        let rest = ["nats://", "tls://"].iter().find_map(|scheme| server.strip_prefix(scheme));
        rest.is_some_and(|rest| !rest.is_empty() && !server.contains(char::is_whitespace))
    };
    if servers.is_empty() || !servers.iter().all(known) { Err(wrong.into()) } else { Ok(servers.join(",")) }
}

/// Parses database nodes, separated by commas. A node without a port gets CQL's port, 9042.
///
/// # Errors
/// When there is no node, or one is not a host with an optional port.
pub fn nodes(text: &str) -> Result<Vec<String>, String> {
    let nodes: Result<Vec<String>, String> = parts(text).map(node).collect();
    nodes.and_then(|nodes| if nodes.is_empty() { Err("names no node".into()) } else { Ok(nodes) })
}

fn node(node: &str) -> Result<String, String> {
    const CQL_PORT: u16 = 9042;
    let wrong = || format!("'{node}' is no host and port like 127.0.0.1:9042");
    if let Ok(address) = node.parse::<std::net::IpAddr>() {
        return Ok(SocketAddr::new(address, CQL_PORT).to_string());
    }
    if node.parse::<SocketAddr>().is_ok() {
        return Ok(node.to_owned());
    }
    let (host, port) = node.split_once(':').map_or((node, None), |(host, port)| (host, Some(port)));
    let port = port.map_or(Ok(CQL_PORT), |port| port.parse().map_err(|_| wrong()))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(wrong());
    }
    Ok(format!("{host}:{port}"))
}

/// Parses the name of a keyspace.
///
/// # Errors
/// When CQL would need quotes for it.
pub fn keyspace(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if (1..=48).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(allowed)
    {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' is no keyspace: up to 48 of a-z 0-9 _, a letter first"))
}

/// Parses the prefix of an installation's subjects.
///
/// # Errors
/// When `text` is not a valid prefix.
pub fn prefix(text: &str) -> Result<Prefix, String> {
    Prefix::parse(text).map_err(|error| format!("'{text}': {error}"))
}

/// Parses an access rule: `participants`, `token`, `open`, or the URL of a webhook.
///
/// # Errors
/// When `text` is none of these.
pub fn access(text: &str) -> Result<Access, String> {
    match text {
        "participants" => Ok(Access::Participants),
        "token" => Ok(Access::Token),
        "open" => Ok(Access::Open),
        _ => http_url(text.strip_prefix("webhook:").unwrap_or(text))
            .map(Access::Webhook)
            .map_err(|_| format!("'{text}' is none of participants, token, open, webhook:https://…")),
    }
}

/// The text of an access rule, in a form that [`access`] reads.
pub fn show_access(access: &Access) -> String {
    match access {
        Access::Participants => "participants".into(),
        Access::Token => "token".into(),
        Access::Open => "open".into(),
        Access::Webhook(url) => format!("webhook:{url}"),
    }
}

/// Parses a namespace: the part of a conversation id before its first `:`.
///
/// # Errors
/// When no conversation id can start with it.
pub fn namespace(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    if (1..=carillon_proto::limits::ID_LENGTH_MAX - 2).contains(&text.len()) && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' is no namespace: of A-Z a-z 0-9 _ . @ -"))
}

/// Parses browser origins in the form that browsers send: lower case, without a path.
///
/// # Errors
/// When one of them is not an origin. `*` and `null` are refused, because any page could then act as its visitor.
pub fn origins(text: &str) -> Result<Vec<String>, String> {
    parts(text).map(origin).collect()
}

fn origin(origin: &str) -> Result<String, String> {
    let wrong = || format!("'{origin}' is no origin like https://chat.example.com");
    let plain = origin.strip_suffix('/').unwrap_or(origin).to_ascii_lowercase();
    let (scheme, host) = plain.split_once("://").ok_or_else(wrong)?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if scheme.is_empty() || host.is_empty() || !host.chars().all(allowed) {
        return Err(wrong());
    }
    Ok(plain)
}

/// Parses networks, separated by commas.
///
/// # Errors
/// When one of them is not a network.
pub fn networks(text: &str) -> Result<Networks, String> {
    parts(text).map(Network::parse).collect::<Result<_, _>>().map(Networks)
}

/// Checks a filter of `tracing` directives.
///
/// # Errors
/// When it is not a valid filter.
pub fn filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is no filter like info or info,carillon_gateway=debug")),
    }
}
