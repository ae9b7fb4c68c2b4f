//! Tests of the settings: the list against the protocol's limits and the documentation, and the order of sources.

use super::list::{self, Slot};
use super::load::{Loaded, Origin, Refused, SettingsFile, Sources, load};
use super::{Access, Role, Settings, document, parse};
use carillon_proto::limits;
use std::path::Path;
use std::time::Duration;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn sources(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    let file = SettingsFile { path: "carillon.toml".into(), text: file.to_owned() };
    let mut environment = pairs(environment);
    environment.push(("AUTH_SECRET".into(), SECRET.into()));
    Sources { file: Some(file), environment, flags: pairs(flags) }
}

fn loaded(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Loaded {
    load(Role::Gateway, &sources(file, environment, flags)).expect("valid")
}

fn refused(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    load(Role::Gateway, &sources(file, environment, flags)).expect_err("refused").to_string()
}

#[test]
fn the_configuration_page_is_generated_from_the_list() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("CARILLON_UPDATE_GENERATED").is_some() {
        std::fs::write(&page, document::page()).expect("written");
    }
    let standing = std::fs::read_to_string(&page).expect("docs/configuration.md");
    assert!(
        standing == document::page(),
        "CARILLON_UPDATE_GENERATED=1 cargo test -p carillon-runtime configuration"
    );
}

#[test]
fn defaults_are_those_of_the_protocol() {
    for role in Role::ALL {
        let settings = Settings::defaults(role);
        assert_eq!(settings.limits.connections_per_ip_per_minute, limits::CONNECTIONS_PER_IP_PER_MINUTE);
        assert_eq!(settings.limits.connections_per_user, limits::CONNECTIONS_PER_USER);
        assert_eq!(settings.limits.connections, limits::CONNECTIONS);
        assert_eq!(settings.limits.messages_per_minute, limits::PER_MINUTE);
        assert_eq!(settings.limits.operations_per_minute, limits::PER_MINUTE);
        assert_eq!(settings.limits.cursors_per_minute, limits::PER_MINUTE);
        assert_eq!(settings.limits.typing_per_minute, limits::PER_MINUTE);
        assert_eq!(settings.limits.frame_bytes, limits::FRAME_BYTES_MAX);
        assert_eq!(settings.limits.content_chars, limits::CONTENT_CHARS_MAX);
        assert_eq!(settings.partitions, limits::PARTITIONS);
        assert_eq!(settings.ping_interval, Duration::from_secs(25));
        assert_eq!(settings.ping_timeout, Duration::from_secs(60));
        assert_eq!(settings.drain_timeout, Duration::from_secs(25));
        assert_eq!(settings.presence_grace, Duration::from_secs(3));
        assert_eq!(settings.access_default, Access::Participants);
        assert_eq!(settings.data_dir, Path::new("./carillon-data"));
        assert!(!settings.dev);
    }
}

#[test]
fn defaults_of_addresses_differ_by_role() {
    let of = |role| {
        let settings = Settings::defaults(role);
        (settings.listen.to_string(), settings.admin_listen, settings.nats_url, settings.scylla_nodes)
    };
    let embedded = ("127.0.0.1:8000".to_owned(), None, None, Vec::new());
    assert_eq!(of(Role::Standalone), embedded);
    assert_eq!(of(Role::Audit), embedded, "the audit must have no default for the bus and the database");
    let nats = Some("nats://127.0.0.1:4222".to_owned());
    let scylla = vec!["127.0.0.1:9042".to_owned()];
    assert_eq!(of(Role::Gateway), ("0.0.0.0:8000".to_owned(), None, nats.clone(), scylla.clone()));
    let admin = "127.0.0.1:9000".parse().ok();
    assert_eq!(of(Role::MessageWorker), ("127.0.0.1:8000".to_owned(), admin, nats.clone(), scylla.clone()));
    assert_eq!(of(Role::PresenceWorker), ("127.0.0.1:8000".to_owned(), admin, nats, scylla));
}

#[test]
fn later_sources_win_and_are_named() {
    let file = "[limits]\nconnections = 1\nmessages_per_minute = 1\ntyping_per_minute = 1\n[nats]\nurl = 'nats://file'";
    let environment = [
        ("CARILLON_LIMITS__CONNECTIONS", "2"),
        ("CARILLON_LIMITS__MESSAGES_PER_MINUTE", "2"),
        ("NATS_URL", "nats://alias"),
    ];
    let Loaded { settings, origins } = loaded(file, &environment, &[("nats", "nats://flag")]);
    assert_eq!(settings.limits.typing_per_minute, 1);
    assert_eq!(settings.limits.messages_per_minute, 2);
    assert_eq!(settings.limits.cursors_per_minute, 60);
    assert_eq!(settings.nats_url.as_deref(), Some("nats://flag"));
    assert_eq!(origins["limits.typing_per_minute"], Origin::File("carillon.toml".into()));
    assert_eq!(origins["limits.connections"], Origin::Environment("CARILLON_LIMITS__CONNECTIONS".into()));
    assert_eq!(origins["nats.url"], Origin::Flag("nats"));
    assert!(!origins.contains_key("limits.cursors_per_minute"));
}

#[test]
fn our_own_name_in_the_environment_beats_an_alias_in_any_order() {
    let own = ("CARILLON_NATS__URL", "nats://own");
    let alias = ("NATS_URL", "nats://alias");
    for environment in [[own, alias], [alias, own]] {
        assert_eq!(loaded("", &environment, &[]).settings.nats_url.as_deref(), Some("nats://own"));
    }
    assert_eq!(
        loaded("", &[("CARILLON_NATS__URL", ""), alias], &[]).settings.nats_url.as_deref(),
        Some("nats://alias")
    );
}

#[test]
fn an_unknown_setting_is_refused_with_the_nearest_name() {
    let message = refused(
        "lisen = '127.0.0.1:1'\n[limit]\nconnections = 3",
        &[("CARILLON_LIMITS_CONNECTIONS", "1")],
        &[],
    );
    assert_eq!(
        message.lines().collect::<Vec<_>>(),
        [
            "carillon.toml: unknown setting limit.connections; the nearest is limits.connections",
            "carillon.toml: unknown setting lisen; the nearest is listen",
            "unknown setting CARILLON_LIMITS_CONNECTIONS in the environment; the nearest is CARILLON_LIMITS__CONNECTIONS",
        ]
    );
    let foreign =
        [("CARILLON_TEST_LONG", "1"), ("CARILLON_PARTS", "x"), ("CARILLON_BIN", "x"), ("PATH", "x")];
    loaded("", &foreign, &[]);
    assert!(
        refused("", &[("CARILLON_LISTENN", "")], &[]).contains("CARILLON_LISTEN"),
        "an unknown variable with an empty value must be refused"
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_line() {
    assert!(
        refused("listen = '127.0.0.1:1'\npartitions = = 4\n", &[], &[])
            .starts_with("carillon.toml, line 2: ")
    );
    assert_eq!(refused("[listen]\nport = 3", &[], &[]), "carillon.toml: listen must be address");
}

#[test]
fn lists_and_tables_of_the_file_are_read() {
    let file = "trusted_proxies = ['10.42.0.0/16', '::1']\n[scylla]\nnodes = ['a', 'b:19042']\n[access]\ndefault = 'token'\n\
                [access.namespaces]\nlobby = 'open'\n'a.b' = 'webhook:https://example.com/x'\n[presence]\ngrace = 0.5";
    let environment =
        [("CARILLON_ACCESS__NAMESPACES__TEAM", "participants"), ("CARILLON_API__KEYS", "one, two,")];
    let Loaded { settings, origins } = loaded(file, &environment, &[]);
    assert_eq!(settings.scylla_nodes, ["a:9042", "b:19042"]);
    assert!(settings.trusted_proxies.contains(&"10.42.9.9".parse().expect("address")));
    assert_eq!(settings.access_default, Access::Token);
    let namespaces: Vec<_> = settings.access_namespaces.into_iter().collect();
    let webhook = Access::Webhook("https://example.com/x".into());
    let expected = [("a.b", webhook), ("lobby", Access::Open), ("team", Access::Participants)];
    assert_eq!(namespaces, expected.map(|(name, access)| (name.to_owned(), access)));
    assert_eq!(settings.api_keys, ["one", "two"]);
    assert_eq!(settings.presence_grace, Duration::from_millis(500));
    assert_eq!(origins["access.namespaces.lobby"], Origin::File("carillon.toml".into()));
}

#[test]
fn values_out_of_bounds_are_refused() {
    for (name, text) in [
        ("CARILLON_PARTITIONS", "0"),
        ("CARILLON_PARTITIONS", "1025"),
        ("CARILLON_PING_TIMEOUT", "0"),
        ("WEBSOCKET_PING_INTERVAL", "-1"),
        ("CARILLON_TRACE_RATIO", "1.1"),
        ("CARILLON_TRACE_RATIO", "NaN"),
        ("CARILLON_LIMITS__FRAME_BYTES", "1GiB"),
        ("CARILLON_LIMITS__CONNECTIONS", "many"),
        ("CARILLON_LIMITS__CONTENT_CHARS", "50001"),
        ("AUTH_SECRET_PREVIOUS", "short"),
        ("CARILLON_LISTEN", "8000"),
        ("CARILLON_DEV", "maybe"),
        ("CARILLON_ALLOWED_ORIGINS", "*"),
        ("CARILLON_ALLOWED_ORIGINS", "null"),
        ("CARILLON_ALLOWED_ORIGINS", "https://a.b/path"),
        ("CARILLON_ACCESS__DEFAULT", "all"),
        ("CARILLON_LOG", "a=b=c"),
        ("NATS_URL", "127.0.0.1:4222"),
        ("SCYLLA_NODES", "a b"),
        ("SCYLLA_KEYSPACE", "drop table"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
    ] {
        let message = refused("", &[(name, text)], &[]);
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn roles_that_serve_clients_need_a_secret_and_others_do_not() {
    let without = Sources::default();
    for role in [Role::Standalone, Role::Gateway] {
        let Refused(wrong) = load(role, &without).expect_err("refused");
        assert!(wrong.len() == 1 && wrong[0].contains("AUTH_SECRET"), "{wrong:?}");
        let dev = Sources { flags: pairs(&[("dev", "true")]), ..Sources::default() };
        assert_eq!(load(role, &dev).expect("valid").settings.access_default, Access::Open);
        let short = Sources { environment: pairs(&[("AUTH_SECRET", "short")]), ..Sources::default() };
        let Refused(wrong) = load(role, &short).expect_err("refused");
        assert_eq!(wrong, ["auth.secret (AUTH_SECRET): has 5 bytes, and needs 32 or more"]);
    }
    for role in [Role::MessageWorker, Role::PresenceWorker, Role::Migrate] {
        load(role, &without).expect("valid").with_secret(role).expect("no secret needed");
    }
}

#[test]
fn dev_mode_creates_a_secret_that_the_token_role_finds() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let data_dir = ("data-dir", directory.path().to_str().expect("UTF-8"));
    let of = |role, flags: &[(&str, &str)]| {
        let sources = Sources { flags: pairs(flags), ..Sources::default() };
        load(role, &sources).and_then(|loaded| loaded.with_secret(role)).map(|settings| settings.auth.secret)
    };
    let missing = of(Role::Token, &[data_dir]).expect_err("a missing secret is refused").to_string();
    assert!(missing.contains("carillon standalone --dev"), "{missing}");
    let made = of(Role::Standalone, &[data_dir, ("dev", "true")]).expect("made");
    assert!(made.is_some());
    assert_eq!(of(Role::Token, &[data_dir]).expect("found"), made);
}

#[test]
fn an_admin_address_equal_to_the_clients_address_is_no_second_listener() {
    let same = [("CARILLON_ADMIN_LISTEN", "0.0.0.0:8000")];
    assert_eq!(loaded("", &same, &[]).settings.admin_listen, None);
}

#[test]
fn secrets_are_never_shown() {
    let environment = [
        ("AUTH_SECRET_PREVIOUS", "previous-previous-previous-previous"),
        ("CARILLON_API__KEYS", "key-one,key-two"),
        ("NATS_URL", "nats://user:password@a:1,nats://token@b:2"),
    ];
    let Loaded { settings, .. } = loaded("", &environment, &[]);
    let shown = format!("{settings:?} {settings:#?} {:?} {:?}", settings.auth, list::shown(&settings));
    for hidden in [SECRET, "previous-previous", "key-one", "key-two", "password", "user:", "token@"] {
        assert!(!shown.contains(hidden), "{hidden}");
    }
    assert!(shown.contains("nats://(hidden)@a:1,nats://(hidden)@b:2"), "{shown}");
}

#[test]
fn errors_do_not_repeat_secrets() {
    let message =
        refused("", &[("CARILLON_AUTH__SECRET", "too-short"), ("NATS_URL", "nat://user:password@a")], &[]);
    assert!(!message.contains("too-short") && !message.contains("password"), "{message}");
}

#[test]
fn every_value_reads_back_from_its_text() {
    let file = "allowed_origins = ['https://A.example/', 'http://localhost:3000']\ntrusted_proxies = ['10.0.0.0/8']\n\
                drain_timeout = '1500ms'\nlimits.frame_bytes = 65537\nscylla.nodes = ['[::1]:9042', '::1']";
    let Loaded { settings, .. } = loaded(file, &[], &[("listen", "[::1]:0")]);
    let mut again = Settings::defaults(Role::Standalone);
    for setting in list::all() {
        match &setting.slot {
            Slot::One { set, get } => {
                if let Some(text) = get(&settings) {
                    set(&mut again, &text).expect(setting.path);
                }
                assert_eq!(get(&again), get(&settings), "{}", setting.path);
            }
            Slot::Each { set, get } => {
                for (name, text) in get(&settings) {
                    set(&mut again, &name, &text).expect(setting.path);
                }
                assert_eq!(get(&again), get(&settings));
            }
        }
    }
    assert_eq!(again.auth.secret.as_deref(), Some(SECRET));
    assert_eq!(again.allowed_origins, ["https://a.example", "http://localhost:3000"]);
}

#[test]
fn times_and_sizes_have_units() {
    let day = Duration::from_secs(86_400);
    for (text, millis) in [
        ("25", 25_000),
        ("25s", 25_000),
        ("500ms", 500),
        ("1.5", 1_500),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
    ] {
        assert_eq!(parse::duration(text, Duration::ZERO, day), Ok(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "s", "1x", "-1", "1e99", "inf", "NaN", "2d", "1 2"] {
        assert!(parse::duration(text, Duration::ZERO, day).is_err(), "{text:?}");
    }
    for (text, bytes) in [
        ("1", 1),
        ("64KiB", 65_536),
        ("10 KB", 10_000),
        ("1MiB", 1_048_576),
        ("0", 2_000_000),
        ("1_000", 1_000),
    ] {
        assert_eq!(parse::size(text, 1, 2_000_000), Ok(bytes), "{text}");
    }
    for text in ["", "KiB", "3MiB", "1.5KiB", "-1", "99999999999999999999", "18446744073709551615KiB"] {
        assert!(parse::size(text, 1, 2_000_000).is_err(), "{text:?}");
    }
}

#[test]
fn names_are_distinct_and_every_help_text_is_a_phrase() {
    let mut names: Vec<String> = Vec::new();
    for setting in list::all() {
        names.push(setting.environment());
        names.extend(setting.aliases.iter().map(|alias| (*alias).to_owned()));
        names.extend(setting.flag.map(|flag| format!("--{flag}")));
        assert!(!setting.help.is_empty() && !setting.help.ends_with('.'), "{}", setting.path);
        assert_eq!(setting.prefix().is_some(), matches!(setting.slot, Slot::Each { .. }), "{}", setting.path);
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}
