//! How durably the servers keep acknowledged entries, as far as a client can see.

use super::connection::Connection;

/// The first server version without known losses of acknowledged entries.
const SERVER_VERSION_MIN: (u64, u64, u64) = (2, 12, 3);

/// The durability of the logs, as far as a client can see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// The version of the server that this process is connected to.
    pub server_version: String,
    /// Copies of each log.
    pub replicas: usize,
    /// What weakens durability, one sentence each.
    pub warnings: Vec<String>,
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "nats server {}, {} {} of each log, sync_interval not visible to clients: if it is not \"always\", the crash of \
             {} costs commands of up to two minutes that nobody acknowledged yet; acknowledged messages are in the database",
            self.server_version,
            self.replicas,
            if self.replicas == 1 { "copy" } else { "copies" },
            if self.replicas == 1 {
                "its operating system"
            } else {
                "the operating systems of most copies at once"
            }
        )?;
        self.warnings.iter().try_for_each(|warning| write!(f, "; {warning}"))
    }
}

fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let (release, _) = text.split_once('-').unwrap_or((text, ""));
    let mut parts = release.trim_start_matches('v').split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

fn judge(server_version: &str, clustered: bool, replicas: usize) -> Durability {
    let mut warnings = Vec::new();
    if parse_version(server_version).is_none_or(|version| version < SERVER_VERSION_MIN) {
        let (major, minor, patch) = SERVER_VERSION_MIN;
        warnings.push(format!("servers before {major}.{minor}.{patch} lose acknowledged entries: upgrade"));
    }
    if clustered && replicas < 3 {
        warnings.push("fewer than 3 copies in a cluster: one server's disk takes a log with it".into());
    }
    Durability { server_version: server_version.into(), replicas, warnings }
}

/// Builds the report. It does not judge `sync_interval`, which the server shows only to a system account.
pub(super) fn report(connection: &Connection, replicas: usize) -> Durability {
    let server = connection.client.server_info();
    judge(&server.version, server.cluster.is_some(), replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_and_too_few_copies_are_warned_about() {
        let table = [
            ("2.12.3", false, 1, 0),
            ("2.15.1", true, 3, 0),
            ("v3.0.0-RC.1", true, 5, 0),
            ("2.12.2", false, 1, 1),
            ("2.9.25", true, 1, 2),
            ("", true, 3, 1),
            ("2.x", false, 1, 1),
        ];
        for (version, clustered, replicas, warnings) in table {
            let durability = judge(version, clustered, replicas);
            assert_eq!(durability.warnings.len(), warnings, "{durability}");
        }
        assert!(
            judge("2.12.2", true, 1).to_string().contains("1 copy"),
            "the text must name the number of copies"
        );
    }
}
