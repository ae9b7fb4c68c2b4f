//! `carillon check-config`: prints the settings that a role would run with, and where each value comes from.

use crate::Failure;
use carillon_runtime::settings::{Loaded, Role, Sources, list, load};
use std::fmt::Write;

/// Prints the effective settings on standard output. Secrets are hidden.
///
/// # Errors
/// When the settings are not valid.
pub fn print(role: Role, sources: &Sources) -> Result<(), Failure> {
    print!("{}", table(role, &load::load(role, sources)?));
    Ok(())
}

fn table(role: Role, loaded: &Loaded) -> String {
    let shown = list::shown(&loaded.settings);
    let width = |texts: &mut dyn Iterator<Item = &String>| texts.map(String::len).max().unwrap_or(0);
    let path_width = width(&mut shown.iter().map(|(path, _)| path));
    // One long value must not push the other columns off the screen.
    let value_width = width(&mut shown.iter().map(|(_, value)| value)).min(40);
    let mut table = format!("# settings of {}\n", role.as_str());
    for (path, value) in &shown {
        let origin = loaded.origins.get(path);
        let origin = origin.map_or_else(|| default_of(path, value, loaded), ToString::to_string);
        let value = if value.is_empty() { "-" } else { value };
        let _ = writeln!(table, "{path:path_width$}  {value:value_width$}  {origin}");
    }
    table
}

fn default_of(path: &str, value: &str, loaded: &Loaded) -> String {
    let setting = list::all().find(|setting| setting.path == path);
    match setting.map(|setting| &setting.default) {
        // An empty value has a meaning here, so the meaning is shown.
        Some(list::Default::Unset(description) | list::Default::ByRole { description, .. })
            if value.is_empty() && *description != "none" =>
        {
            format!("default: {description}")
        }
        _ if path == "access.default" && loaded.settings.dev => "default with dev".into(),
        _ => "default".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_printed_with_its_origin() {
        let secret = "0123456789abcdef0123456789abcdef";
        let environment = [("AUTH_SECRET", secret), ("CARILLON_ACCESS__NAMESPACES__LOBBY", "open")];
        let environment = environment.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
        let flags = vec![("listen".to_owned(), "127.0.0.1:8001".to_owned())];
        let sources = Sources { environment, flags, ..Sources::default() };
        let table = table(Role::Standalone, &load::load(Role::Standalone, &sources).expect("valid"));
        let line = |path: &str| {
            let line =
                table.lines().find(|line| line.split_whitespace().next() == Some(path)).unwrap_or_default();
            line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("listen"), "127.0.0.1:8001 --listen");
        assert_eq!(line("auth.secret"), "(hidden) AUTH_SECRET");
        assert_eq!(line("access.namespaces.lobby"), "open CARILLON_ACCESS__NAMESPACES__LOBBY");
        assert_eq!(line("limits.frame_bytes"), "64KiB default");
        assert_eq!(line("nats.replicas"), "- default: 3 if the servers form a cluster of 3 or more, else 1");
        assert!(!table.contains(secret));
    }
}
