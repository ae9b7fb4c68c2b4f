//! Documents the settings for users: the page `docs/configuration.md`, and the long help.

use super::list::{self, Setting};
use std::fmt::Write;

const INTRODUCTION: &str = r#"# Configuration

<!-- Made from runtime/src/settings/list by `CARILLON_UPDATE_GENERATED=1 cargo test -p carillon-runtime configuration`. -->

Every process of Carillon accepts all settings of this page and ignores those that are not its own, so one file and one environment serve all roles.

The value of a setting comes from the first of these that has it:

1. a flag, for the settings that have one;
2. the environment: `CARILLON_` and the setting's path in capitals, with `__` between its parts (`limits.connections` is `CARILLON_LIMITS__CONNECTIONS`), or one of its further names; set to nothing counts as not set;
3. `carillon.toml`: the file that `--config` names, or the one in the working directory;
4. its default.

An unknown setting in the file, an unknown `CARILLON_…` name in the environment, and a value out of bounds end the process with exit code 64 before it opens a port. `carillon check-config` tells what a process would run with, and where each value comes from.

Times are `25` (seconds), `25s`, `500ms`, `5m` or `1h`. Sizes are `65536`, `64KiB` or `1MiB`. Lists are arrays in the file, and text with commas in the environment.

```toml
listen = "0.0.0.0:8000"
trusted_proxies = ["10.42.0.0/16"]

[nats]
url = "nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222"

[scylla]
nodes = ["scylla-1:9042", "scylla-2:9042"]

[limits]
messages_per_minute = 120

[access]
default = "participants"
namespaces = { lobby = "open", support = "webhook:https://example.com/may-join" }
```
"#;

/// The text of `docs/configuration.md`.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for group in list::GROUPS {
        let _ = write!(
            page,
            "\n## {}\n\n| setting | what | default | flag, environment |\n|---|---|---|---|\n",
            group.title
        );
        for setting in group.settings {
            let _ = writeln!(
                page,
                "| `{}` | {} ({}) | {} | {} |",
                setting.path,
                setting.help,
                setting.kind,
                setting.default_description(),
                names(setting)
            );
        }
    }
    page
}

fn names(setting: &Setting) -> String {
    let flag = setting.flag.map(|flag| format!("--{flag}"));
    let aliases = setting.aliases.iter().map(|alias| (*alias).to_owned());
    let names: Vec<String> = flag.into_iter().chain(aliases).chain([setting.environment()]).collect();
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The settings without a flag, for the end of the long help.
pub fn help() -> String {
    let mut help = "Further settings, from carillon.toml, or from the environment as CARILLON_ and the path in capitals,\n\
                    with __ between its parts:\n"
        .to_owned();
    for setting in list::all().filter(|setting| setting.flag.is_none()) {
        let aliases: String = setting.aliases.iter().map(|alias| format!(" or {alias}")).collect();
        let _ = writeln!(
            help,
            "  {}{aliases}\n          {} [{}]",
            setting.path,
            setting.help,
            setting.default_description()
        );
    }
    help
}
