//! Decides the value of each setting: a flag, else the environment, else `carillon.toml`, else the default.

use super::list::{self, Setting, Slot};
use super::nearest::nearest;
use super::{Access, Role, Settings, secret};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The file that is read from the working directory if no file is named.
pub const FILE_NAME: &str = "carillon.toml";
/// Names of Carillon's own tests and tools, which are not settings.
const FOREIGN_NAMES: [&str; 3] = ["CARILLON_PARTS", "CARILLON_BIN", "CARILLON_UPDATE_GENERATED"];
const FOREIGN_PREFIX: &str = "CARILLON_TEST_";
/// A settings file has a few KiB. A larger file was named by mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The sources of settings.
#[derive(Debug, Default)]
pub struct Sources {
    /// The settings file.
    pub file: Option<SettingsFile>,
    /// Names and values of the environment.
    pub environment: Vec<(String, String)>,
    /// Flags, without their dashes, and their values.
    pub flags: Vec<(String, String)>,
}

/// A settings file and its content.
#[derive(Debug)]
pub struct SettingsFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The content of the file.
    pub text: String,
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The settings file at this path.
    File(PathBuf),
    /// The variable of this name in the environment.
    Environment(String),
    /// The flag of this name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

/// Why the settings are refused: one line for each error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Refused(pub Vec<String>);

/// Settings that were read and are valid.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The sources of the values that are set, by path. The other values are defaults.
    pub origins: BTreeMap<String, Origin>,
}

impl Sources {
    /// Collects this process's sources: the named file or the one in the working directory, the environment, and
    /// `flags`.
    ///
    /// # Errors
    /// When the file cannot be read, or a setting in the environment is not UTF-8.
    pub fn of_process(file: Option<&Path>, flags: Vec<(String, String)>) -> Result<Sources, Refused> {
        let path = file.map_or_else(|| PathBuf::from(FILE_NAME), Path::to_owned);
        let text = match std::fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => None,
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                Some(Err("is too large for a settings file".to_owned()))
            }
            _ => Some(std::fs::read_to_string(&path).map_err(|error| error.to_string())),
        };
        let file = match text.transpose() {
            Ok(text) => text.map(|text| SettingsFile { path, text }),
            Err(wrong) => return Err(Refused(vec![format!("{}: {wrong}", path.display())])),
        };
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => environment.push((name, value)),
                (Ok(name), Err(_)) if is_ours(&name) || has_alias(&name) => {
                    return Err(Refused(vec![format!("{name} in the environment is not UTF-8")]));
                }
                // Names that are not UTF-8 are not settings, and other programs' variables do not matter.
                _ => {}
            }
        }
        Ok(Sources { file, environment, flags })
    }
}

/// Reads and validates the settings of a `role`, from its arguments only.
///
/// # Errors
/// When a setting in `sources` is unknown or invalid. The error lists all of them.
pub fn load(role: Role, sources: &Sources) -> Result<Loaded, Refused> {
    let mut loading =
        Loading { settings: Settings::defaults(role), origins: BTreeMap::new(), wrong: Vec::new() };
    if let Some(file) = &sources.file {
        loading.read_file(file);
    }
    loading.read_environment(&sources.environment);
    for (flag, text) in &sources.flags {
        loading.read_flag(flag, text);
    }
    loading.relate(role);
    if loading.wrong.is_empty() {
        Ok(Loaded { settings: loading.settings, origins: loading.origins })
    } else {
        Err(Refused(loading.wrong))
    }
}

impl Loaded {
    /// The settings, with the secret from the data directory if none is set. Roles that serve clients create it there
    /// under `dev`; `token` only reads it.
    ///
    /// # Errors
    /// When no secret is set, and none can be read or created.
    pub fn with_secret(mut self, role: Role) -> Result<Settings, Refused> {
        let settings = &mut self.settings;
        if settings.auth.secret.is_some() || !role.needs_secret() {
            return Ok(self.settings);
        }
        let found = if settings.dev {
            secret::read_or_make(&settings.data_dir).map(Some)
        } else {
            secret::read(&settings.data_dir)
        };
        let path = secret::path(&settings.data_dir);
        settings.auth.secret =
            found.map_err(|error| Refused(vec![format!("{}: {error}", path.display())]))?;
        if settings.auth.secret.is_none() {
            let advice = "set AUTH_SECRET to that of the server, or start `carillon standalone --dev` first";
            return Err(Refused(vec![format!(
                "there is no secret to sign with, and none in {}: {advice}",
                path.display()
            )]));
        }
        Ok(self.settings)
    }
}

struct Loading {
    settings: Settings,
    origins: BTreeMap<String, Origin>,
    wrong: Vec<String>,
}

impl Loading {
    fn read_file(&mut self, file: &SettingsFile) {
        let table = match toml::from_str::<toml::Table>(&file.text) {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(0, |span| file.text[..span.start].matches('\n').count()) + 1;
                self.wrong.push(format!("{}, line {line}: {}", file.path.display(), error.message()));
                return;
            }
        };
        self.read_table(&table, "", &Origin::File(file.path.clone()));
    }

    fn read_table(&mut self, table: &toml::Table, above: &str, origin: &Origin) {
        for (key, value) in table {
            let path = format!("{above}{key}");
            match (value, find(&path)) {
                (toml::Value::Table(inner), None) => self.read_table(inner, &format!("{path}."), origin),
                (_, None) => {
                    let known = nearest(&path, list::all().map(|setting| setting.path)).unwrap_or_default();
                    self.wrong.push(format!("{origin}: unknown setting {path}; the nearest is {known}"));
                }
                (value, Some((setting, name))) => match scalar(value) {
                    Some(text) => self.set(setting, name, &text, origin.clone()),
                    None => self.wrong.push(format!("{origin}: {path} must be {}", setting.kind)),
                },
            }
        }
    }

    /// Aliases are read before the setting's own name, so that the own name overrides an alias.
    fn read_environment(&mut self, environment: &[(String, String)]) {
        // A compose file or a shell passes an absent value as empty, so an empty value counts as not set.
        let given: Vec<&(String, String)> = environment.iter().filter(|(_, text)| !text.is_empty()).collect();
        for (name, text) in &given {
            if let Some(setting) = list::all().find(|setting| setting.has_alias(name)) {
                self.set(setting, "", text, Origin::Environment(name.clone()));
            }
        }
        for (name, text) in environment.iter().filter(|(name, _)| is_ours(name)) {
            match find_environment(name) {
                Some(_) if text.is_empty() => {}
                Some((setting, inner)) => self.set(setting, &inner, text, Origin::Environment(name.clone())),
                None => {
                    let known: Vec<String> = list::all().map(Setting::environment).collect();
                    let known = nearest(name, known.iter().map(String::as_str)).unwrap_or_default();
                    self.wrong
                        .push(format!("unknown setting {name} in the environment; the nearest is {known}"));
                }
            }
        }
    }

    fn read_flag(&mut self, flag: &str, text: &str) {
        match list::all().find(|setting| setting.flag == Some(flag)) {
            Some(setting) => self.set(setting, "", text, Origin::Flag(setting.flag.unwrap_or_default())),
            None => self.wrong.push(format!("unknown flag --{flag}")),
        }
    }

    fn set(&mut self, setting: &Setting, name: &str, text: &str, origin: Origin) {
        let (done, path) = match &setting.slot {
            Slot::One { set, .. } => (set(&mut self.settings, text), setting.path.to_owned()),
            Slot::Each { set, .. } => (
                set(&mut self.settings, name, text),
                format!("{}{name}", setting.prefix().unwrap_or_default()),
            ),
        };
        match done {
            Ok(()) => drop(self.origins.insert(path, origin)),
            Err(wrong) => self.wrong.push(format!("{path} ({origin}): {wrong}")),
        }
    }

    /// Applies rules that involve several settings.
    fn relate(&mut self, role: Role) {
        let settings = &mut self.settings;
        if settings.dev && !self.origins.contains_key("access.default") {
            settings.access_default = Access::Open;
        }
        if settings.admin_listen == Some(settings.listen) && role.serves_clients() {
            settings.admin_listen = None;
        }
        // `token` may still find the secret that a server created in the data directory.
        if role.serves_clients()
            && settings.auth.secret.is_none()
            && !settings.dev
            && !self.names("auth.secret")
        {
            let advice = "set AUTH_SECRET to 32 bytes or more, for example with `openssl rand -hex 32`, or try it out with --dev";
            self.wrong.push(format!("auth.secret is not set: {advice}"));
        }
    }

    /// Whether an error about `path` was reported already.
    fn names(&self, path: &str) -> bool {
        self.wrong.iter().any(|wrong| wrong.starts_with(path))
    }
}

fn has_alias(name: &str) -> bool {
    list::all().any(|setting| setting.has_alias(name))
}

fn is_ours(name: &str) -> bool {
    name.starts_with("CARILLON_") && !name.starts_with(FOREIGN_PREFIX) && !FOREIGN_NAMES.contains(&name)
}

/// The setting with this path, and the name in the place of its `*`.
fn find(path: &str) -> Option<(&'static Setting, &str)> {
    list::all().find_map(|setting| match setting.prefix() {
        Some(prefix) => path.strip_prefix(prefix).map(|name| (setting, name)),
        None => (setting.path == path).then_some((setting, "")),
    })
}

fn find_environment(name: &str) -> Option<(&'static Setting, String)> {
    list::all().find_map(|setting| {
        let own = setting.environment();
        match own.strip_suffix('*') {
            Some(prefix) => name.strip_prefix(prefix).map(|inner| (setting, inner.to_ascii_lowercase())),
            None => (own == name).then(|| (setting, String::new())),
        }
    })
}

/// The text that a value would have in the environment; `None` for tables and lists of lists.
fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(on) => Some(on.to_string()),
        toml::Value::Array(values) => {
            let plain = |value: &toml::Value| if value.is_array() { None } else { scalar(value) };
            values.iter().map(plain).collect::<Option<Vec<_>>>().map(|texts| texts.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
