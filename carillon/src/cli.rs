//! The command line. Most of its flags are made from the list of settings.

use crate::audit;
use crate::token::Wanted;
use carillon_message_worker::audit::{ROWS_DEFAULT, ROWS_MAX};
use carillon_proto::id::ConversationId;
use carillon_runtime::settings::list::{self, Setting};
use carillon_runtime::settings::{Role, document, parse};
use clap::builder::{PossibleValuesParser, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The longest lifetime of a token. A token that is valid for longer would in practice be a permanent key.
const TTL_MAX: Duration = Duration::from_secs(366 * 86_400);

/// The shortest interval between two audits, because each one reads the logs and the newest rows again.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// The longest interval between two audits. A log keeps only ten minutes of entries behind its checkpoint, so an audit
/// that runs less often than daily sees too little of it.
const EVERY_MAX: Duration = Duration::from_secs(86_400);

/// The parsed command line.
#[derive(Debug)]
pub struct Invocation {
    /// What to do.
    pub task: Task,
    /// The settings file of `--config`.
    pub config: Option<PathBuf>,
    /// Settings given as flags.
    pub flags: Vec<(String, String)>,
}

/// What to do.
#[derive(Debug)]
pub enum Task {
    /// Run this role.
    Run(Role),
    /// Print a token.
    Token(Wanted),
    /// Print the settings of this role.
    CheckConfig(Role),
    /// Compare logs, rows and heads.
    Audit(audit::Wanted),
    /// Report what a damaged data directory has lost, or repair it.
    Repair {
        /// True: repair it. False: only report.
        accept_loss: bool,
    },
}

const EXAMPLES: &str = "\
Examples:
  carillon standalone --dev                try it out: nothing else is needed
  AUTH_SECRET=… carillon standalone        the same for real use, on one machine
  AUTH_SECRET=… carillon gateway --nats nats://nats-1:4222
  carillon message-worker --nats nats://nats-1:4222 --scylla scylla-1:9042
  carillon token --sub alice --name Alice  a token for a user
  carillon check-config --role gateway     what a role would run with
  carillon audit --nats nats://nats-1:4222 --scylla scylla-1:9042
                                           whether anything acknowledged is missing
  carillon repair --data-dir data          what a damaged data directory has lost

Exit codes: 0, 1 (failed while running, or an audit found something), 64 (wrong usage or configuration).
All settings: docs/configuration.md, or the end of `carillon gateway --help`.";

/// Parses the command line.
///
/// # Errors
/// What to print instead: help, the version, or what is wrong.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    // There always is a subcommand, because clap requires one.
    let (name, given) = matches.subcommand().unwrap_or(("", &matches));
    let task = match name {
        "token" => Task::Token(wanted(given)),
        "audit" => Task::Audit(audited(given)),
        "repair" => Task::Repair { accept_loss: given.get_flag("accept-loss") },
        "check-config" => {
            Task::CheckConfig(given.get_one::<String>("role").map_or(Role::Standalone, |name| role(name)))
        }
        name => Task::Run(role(name)),
    };
    Ok(Invocation { task, config: given.get_one("config").cloned(), flags: flags(given) })
}

/// Prints help, the version, or what is wrong, and returns the exit code for it.
pub fn print(message: &clap::Error) -> ExitCode {
    // A closed terminal is not a failure: the exit code still shows the result.
    let _ = message.print();
    if message.use_stderr() { ExitCode::from(crate::EXIT_USAGE) } else { ExitCode::SUCCESS }
}

/// The definition of the command line.
pub fn command() -> Command {
    let run = |role: Role, about: &'static str, example: &'static str| {
        with_settings(Command::new(role.as_str()).about(about).after_help(format!("Example:\n  {example}")))
    };
    Command::new("carillon")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "A real-time messaging backbone: WebSockets and Socket.IO in, stored and ordered messages out.",
        )
        .after_help(EXAMPLES)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run(
            Role::Standalone,
            "Run everything in one process, with an embedded bus and store",
            "carillon standalone --dev",
        ))
        .subcommand(run(
            Role::Gateway,
            "Serve clients: WebSockets, Socket.IO and REST",
            "AUTH_SECRET=… carillon gateway --listen 0.0.0.0:8000 --nats nats://nats-1:4222",
        ))
        .subcommand(run(
            Role::MessageWorker,
            "Apply, store and fan out messages",
            "carillon message-worker --nats nats://nats-1:4222 --scylla scylla-1:9042,scylla-2:9042",
        ))
        .subcommand(run(
            Role::PresenceWorker,
            "Know who is online, and who is in which room",
            "carillon presence-worker --nats nats://nats-1:4222 --scylla scylla-1:9042",
        ))
        .subcommand(run(
            Role::Migrate,
            "Bring the database's schema up to date, and end; safe to run again",
            "carillon migrate --scylla scylla-1:9042",
        ))
        .subcommand(audit_command())
        .subcommand(repair_command())
        .subcommand(token_command())
        .subcommand(check_command())
}

fn token_command() -> Command {
    let text =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("text").help(help);
    let command = Command::new("token")
        .about("Print a token for a user, signed with AUTH_SECRET or with the secret that --dev made")
        .arg(text("sub", "The user's id").value_name("id").required(true))
        .arg(text("name", "The user's name, as others see it"))
        .arg(text("email", "The user's e-mail address"))
        .arg(text("role", "The user's role"))
        .arg(
            text("ttl", "How long it is valid, such as 90s, 1h or 7d")
                .value_name("time")
                .default_value("1h")
                .value_parser(ttl as fn(&str) -> Result<Duration, String>),
        )
        .arg(
            text("conversations", "Conversations that it opens under the access rule `token`, such as a,b*")
                .value_name("ids")
                .value_delimiter(','),
        )
        .after_help(
            "Example:\n  carillon token --sub alice --name Alice --ttl 8h --conversations lobby,team:*",
        );
    with_settings(command)
}

fn audit_command() -> Command {
    let conversation = Arg::new("conversation")
        .long("conversation")
        .value_name("id")
        .action(ArgAction::Append)
        .value_parser(|text: &str| ConversationId::parse(text))
        .help("Look at this conversation too, besides those that the logs have commands of; may be repeated");
    let rows = Arg::new("rows")
        .long("rows")
        .value_name("number")
        .value_parser(|text: &str| parse::number(text, 1, ROWS_MAX as u64).map(|rows| rows as usize))
        .help(format!(
            "The newest rows of each conversation that are read besides those that the logs have commands of, 1 to {ROWS_MAX} [{ROWS_DEFAULT}]"
        ));
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print the report as one JSON object in one line");
    let every = Arg::new("every")
        .long("every")
        .value_name("time")
        .value_parser(|text: &str| parse::duration(text, EVERY_MIN, EVERY_MAX))
        .help(
            "Go on until SIGTERM, at intervals such as 60s, with /metrics at the address of --admin-listen",
        );
    let command = Command::new("audit")
        .about("Compare logs, rows and heads of a live system, and print what is missing, twice or out of order")
        .args([conversation, rows, json, every])
        .after_help(
            "No row and no entry is written. Exit codes: 0 (nothing was found), 1 (something was, or could not be read), 64.\n\n\
             Examples:\n  carillon audit --nats nats://nats-1:4222 --scylla scylla-1:9042\n  \
             carillon audit --every 60s --admin-listen 0.0.0.0:9000",
        );
    with_settings(command)
}

fn repair_command() -> Command {
    let accept_loss = Arg::new("accept-loss")
        .long("accept-loss")
        .action(ArgAction::SetTrue)
        .help("Do it: keep copies of the damaged files, and go on without what cannot be read");
    let command = Command::new("repair")
        .about("Show what a damaged data directory has lost, and make it usable without that")
        .arg(accept_loss)
        .after_help(
            "A standalone process refuses a journal that is damaged: a record that cannot be read with others behind it, \n\
             a file that was cut off, is missing, or belongs to another data directory. A write that was cut off by a crash \n\
             is none of these, and needs no repair. The best repair is a backup of the whole data directory.\n\n\
             Without --accept-loss nothing is changed: it prints where the damage is, how many events behind it can be \n\
             kept, and for each conversation the seqs that are lost, as far as that is known. With it, the damaged files \n\
             are copied beside themselves (messages.journal.0.damaged.1), what can be kept goes into the table, and the \n\
             journal is emptied. What is sent next to a conversation that lost events gets their seqs: clients that saw \n\
             the lost ones keep them until they load the conversation anew.\n\n\
             Exit codes: 0 (nothing was damaged, or it was repaired), 1 (damaged, and nothing was done), 64.\n\n\
             Examples:\n  carillon repair --data-dir /var/lib/carillon\n  \
             carillon repair --data-dir /var/lib/carillon --accept-loss",
        );
    with_settings(command)
}

fn check_command() -> Command {
    let roles = PossibleValuesParser::new(Role::ALL.map(Role::as_str));
    let role =
        Arg::new("role").long("role").value_name("role").default_value("standalone").value_parser(roles);
    let command = Command::new("check-config")
        .about("Print the settings that a role would run with, and where each comes from")
        .arg(role.help("Whose settings"))
        .after_help("Example:\n  carillon check-config --role gateway --config /etc/carillon/carillon.toml");
    with_settings(command)
}

/// Adds `--config` and a flag for each setting that has one.
fn with_settings(command: Command) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("file")
        .value_parser(value_parser!(PathBuf))
        .help("The settings file [carillon.toml, if there is one]");
    let flags = list::all().filter_map(|setting| setting.flag.map(|flag| argument(setting, flag)));
    let command = command.next_help_heading("Settings").arg(config).args(flags);
    let further = document::help();
    let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command.after_long_help(format!("{further}\n{example}"))
}

fn argument(setting: &'static Setting, flag: &'static str) -> Arg {
    let help = format!("{} [{}]", capitalised(setting.help), setting.default_description());
    let argument = Arg::new(flag).long(flag).help(help).value_parser(ValueParser::string());
    if setting.kind == "true or false" {
        let argument = argument.num_args(0..=1).require_equals(true).default_missing_value("true");
        return argument.value_name("bool").hide_possible_values(true).action(ArgAction::Set);
    }
    argument.value_name(setting.kind.split([' ', ',']).next().unwrap_or_default())
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn flags(given: &ArgMatches) -> Vec<(String, String)> {
    let of = |flag: &'static str| given.get_one::<String>(flag).map(|text| (flag.to_owned(), text.clone()));
    list::all().filter_map(|setting| setting.flag.and_then(of)).collect()
}

fn role(name: &str) -> Role {
    Role::ALL.into_iter().find(|role| role.as_str() == name).unwrap_or(Role::Standalone)
}

fn ttl(text: &str) -> Result<Duration, String> {
    parse::duration(text, Duration::from_secs(1), TTL_MAX)
}

fn wanted(given: &ArgMatches) -> Wanted {
    let text = |name: &str| given.get_one::<String>(name).cloned();
    Wanted {
        sub: text("sub").unwrap_or_default(),
        name: text("name"),
        email: text("email"),
        role: text("role"),
        ttl: given.get_one::<Duration>("ttl").copied().unwrap_or_default(),
        conversations: given.get_many::<String>("conversations").map(|all| all.cloned().collect()),
    }
}

fn audited(given: &ArgMatches) -> audit::Wanted {
    audit::Wanted {
        conversations: given.get_many("conversation").map(|all| all.cloned().collect()).unwrap_or_default(),
        rows: given.get_one("rows").copied().unwrap_or(ROWS_DEFAULT),
        json: given.get_flag("json"),
        every: given.get_one("every").copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, clap::Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_role_has_a_subcommand_that_accepts_every_flag() {
        for role in Role::ALL {
            let command = command();
            let sub = command.find_subcommand(role.as_str()).expect("a subcommand");
            for flag in list::all().filter_map(|setting| setting.flag) {
                assert!(
                    sub.get_arguments().any(|argument| argument.get_long() == Some(flag)),
                    "{role:?} {flag}"
                );
            }
        }
    }

    #[test]
    fn flags_become_settings() {
        let line = "carillon gateway --listen 0.0.0.0:1 --dev --config x.toml --nats nats://a:1,nats://b:2";
        let invocation = parsed(line).expect("valid");
        assert!(matches!(invocation.task, Task::Run(Role::Gateway)));
        assert_eq!(invocation.config, Some("x.toml".into()));
        let flags = [("listen", "0.0.0.0:1"), ("dev", "true"), ("nats", "nats://a:1,nats://b:2")];
        assert_eq!(invocation.flags, flags.map(|(flag, text)| (flag.to_owned(), text.to_owned())));
        assert_eq!(parsed("carillon gateway --dev=false").expect("valid").flags[0].1, "false");
    }

    #[test]
    fn the_token_command_has_an_option_for_each_claim() {
        let line = "carillon token --sub alice --name Alice --email a@x.org --role admin --ttl 90s --conversations a,b*";
        let Task::Token(wanted) = parsed(line).expect("valid").task else { panic!("not a token task") };
        assert_eq!((wanted.sub.as_str(), wanted.role.as_deref()), ("alice", Some("admin")));
        assert_eq!((wanted.name.as_deref(), wanted.email.as_deref()), (Some("Alice"), Some("a@x.org")));
        assert_eq!(wanted.ttl, Duration::from_secs(90));
        assert_eq!(wanted.conversations, Some(vec!["a".to_owned(), "b*".to_owned()]));
        let Task::Token(wanted) = parsed("carillon token --sub alice").expect("valid").task else {
            panic!("not a token task")
        };
        assert_eq!((wanted.ttl, wanted.conversations), (Duration::from_secs(3_600), None));
    }

    #[test]
    fn the_audit_command_accepts_all_its_options() {
        let line = "carillon audit --conversation a --conversation b --rows 500 --json --every 60s --nats nats://a:1";
        let invocation = parsed(line).expect("valid");
        assert_eq!(invocation.flags, [("nats".to_owned(), "nats://a:1".to_owned())]);
        let Task::Audit(wanted) = invocation.task else { panic!("not an audit task") };
        let conversations: Vec<&str> = wanted.conversations.iter().map(ConversationId::as_str).collect();
        assert_eq!((conversations, wanted.rows), (vec!["a", "b"], 500));
        assert_eq!((wanted.json, wanted.every), (true, Some(Duration::from_secs(60))));
        let Task::Audit(wanted) = parsed("carillon audit").expect("valid").task else {
            panic!("not an audit task")
        };
        assert_eq!((wanted.rows, wanted.json, wanted.every), (ROWS_DEFAULT, false, None));
        for wrong in ["--rows 0", "--rows 100001", "--every 0s", "--every x", "--conversation a/b"] {
            assert!(parsed(&format!("carillon audit {wrong}")).expect_err(wrong).use_stderr());
        }
    }

    #[test]
    fn a_repair_changes_nothing_without_accept_loss() {
        let accepts = |line| match parsed(line).expect("valid").task {
            Task::Repair { accept_loss } => accept_loss,
            other => panic!("{other:?}"),
        };
        assert!(!accepts("carillon repair --data-dir x"));
        assert!(accepts("carillon repair --data-dir x --accept-loss"));
    }

    #[test]
    fn wrong_usage_goes_to_standard_error_and_help_does_not() {
        for line in [
            "carillon",
            "carillon gatewayy",
            "carillon token",
            "carillon gateway --lisen x",
            "carillon token --sub a --ttl x",
        ] {
            assert!(parsed(line).expect_err(line).use_stderr(), "{line}");
        }
        for line in
            ["carillon --help", "carillon --version", "carillon gateway --help", "carillon help token"]
        {
            assert!(!parsed(line).expect_err(line).use_stderr(), "{line}");
        }
    }

    #[test]
    fn the_long_help_names_every_setting() {
        let help = command().find_subcommand_mut("gateway").expect("gateway").render_long_help().to_string();
        for setting in list::all() {
            let name = setting.flag.map_or_else(|| setting.path.to_owned(), |flag| format!("--{flag}"));
            assert!(help.contains(&name), "{name}");
        }
        assert!(help.contains("carillon gateway --listen 0.0.0.0:8000"), "the help lacks its example");
    }
}
