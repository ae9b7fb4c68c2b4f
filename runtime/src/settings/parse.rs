//! How a setting's text becomes its value: bounded, and refused with a sentence that says what would do.

use super::{Access, Network, Networks};
use carillon_proto::subject::Prefix;
use std::net::SocketAddr;
use std::time::Duration;

/// An address with a port.
///
/// # Errors
/// When `text` is none.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("'{text}' is no address and port like 127.0.0.1:8000 or [::]:8000"))
}

/// On or off.
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

/// A whole number from `least` to `most`.
///
/// # Errors
/// When `text` is none, or outside.
pub fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no whole number from {least} to {most}");
    let number: u64 = text.replace('_', "").parse().map_err(|_| wrong())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(wrong()) }
}

/// A number that fits a field of 32 bits.
///
/// # Errors
/// As [`number`].
pub fn number_32(text: &str, least: u32, most: u32) -> Result<u32, String> {
    number(text, least.into(), most.into()).map(|number| number as u32)
}

/// A share, 0 to 1.
///
/// # Errors
/// When `text` is none.
pub fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().unwrap_or(f64::NAN);
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("'{text}' is no number from 0 to 1")) }
}

/// A length of time from `least` to `most`: `25` (seconds), `25s`, `500ms`, `1.5m`, `1h`, `7d`.
///
/// # Errors
/// When `text` is none, or outside.
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
    // Decimal fractions are exact to the millisecond, which is as fine as any setting is.
    let duration = Duration::from_millis((duration.as_secs_f64() * 1_000.0).round() as u64);
    if (least..=most).contains(&duration) { Ok(duration) } else { Err(wrong()) }
}

/// The text of a time, which [`duration`] reads back.
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, unit_millis) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        // Up to two minutes are better known in seconds.
        if millis.is_multiple_of(unit_millis) && (unit == "s" || millis > 120_000) {
            return format!("{}{unit}", millis / unit_millis);
        }
    }
    format!("{millis}ms")
}

/// A number of bytes up to `most`: `65536`, `64KiB`, `64 kB`, `1MiB`. 0 stands for `most`: nothing is without bound.
///
/// # Errors
/// When `text` is none, or outside.
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

/// The text of a size, which [`size`] reads back.
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

/// Text that is not empty.
///
/// # Errors
/// When it is.
pub fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("must not be empty: leave it out instead".into())
    } else {
        Ok(text.trim().into())
    }
}

/// Parts between commas, without those that are empty.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// An HTTP(S) URL.
///
/// # Errors
/// When `url` is none.
pub fn http_url(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || url.contains(char::is_whitespace) {
        return Err(format!("'{url}' is no URL like https://example.com/path"));
    }
    Ok(url.to_owned())
}

/// NATS servers, one or several with commas between.
///
/// # Errors
/// When one of them is no NATS URL. The text is not repeated: it may hold a password.
pub fn nats_url(text: &str) -> Result<String, String> {
    let wrong = "must be URLs like nats://127.0.0.1:4222, several separated by commas";
    let servers: Vec<&str> = parts(text).collect();
    let known = |server: &&str| {
        let rest = ["nats://", "tls://"].iter().find_map(|scheme| server.strip_prefix(scheme));
        rest.is_some_and(|rest| !rest.is_empty() && !server.contains(char::is_whitespace))
    };
    if servers.is_empty() || !servers.iter().all(known) { Err(wrong.into()) } else { Ok(servers.join(",")) }
}

/// Database nodes; one without a port gets CQL's, 9042.
///
/// # Errors
/// When there is none, or one is no host.
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

/// A keyspace's name.
///
/// # Errors
/// When CQL would not take it without quotes.
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

/// The prefix of an installation's subjects.
///
/// # Errors
/// When `text` is none.
pub fn prefix(text: &str) -> Result<Prefix, String> {
    Prefix::parse(text).map_err(|error| format!("'{text}': {error}"))
}

/// Who may use conversations: `participants`, `token`, `open`, or the URL of a webhook.
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

/// The text of an access rule, which [`access`] reads back.
pub fn show_access(access: &Access) -> String {
    match access {
        Access::Participants => "participants".into(),
        Access::Token => "token".into(),
        Access::Open => "open".into(),
        Access::Webhook(url) => format!("webhook:{url}"),
    }
}

/// The part of a conversation id before its first `:`.
///
/// # Errors
/// When no conversation id can begin with it.
pub fn namespace(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    if (1..=carillon_proto::limits::ID_LENGTH_MAX - 2).contains(&text.len()) && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' is no namespace: of A-Z a-z 0-9 _ . @ -"))
}

/// Browser origins, as browsers send them: lower case, without a path.
///
/// # Errors
/// When one of them is no origin. `*` and `null` would let any page act as its visitor.
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

/// Networks.
///
/// # Errors
/// When one of them is none.
pub fn networks(text: &str) -> Result<Networks, String> {
    parts(text).map(Network::parse).collect::<Result<_, _>>().map(Networks)
}

/// A filter of `tracing` directives.
///
/// # Errors
/// When it is none.
pub fn filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is no filter like info or info,carillon_gateway=debug")),
    }
}
